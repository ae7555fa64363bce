from pathlib import Path
from typing import Any

import pytest

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Recipe, load_recipe
from agenttuning.training.architectures import known_architecture, known_architectures, shape_of
from agenttuning.training.sizing import GIB, Sizing, format_sizing, memory_per_worker, size_recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def sizing_of(size: str, *overrides: str, **arguments: Any) -> Sizing:
    recipe = load_recipe(CONFIGS / f"agentlm-{size}.yaml", list(overrides))
    config = known_architecture(recipe.model.path)
    assert config is not None
    return size_recipe(recipe, config, **arguments)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llama-2-7b-chat-hf", 6_738_415_616),
        ("llama-2-13b-chat-hf", 13_015_864_320),
        ("llama-2-70b-chat-hf", 68_976_648_192),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_embedded_shapes_have_the_published_parameter_counts(name: str, published: int) -> None:
    assert shape_of(known_architectures[name]).parameters == published


@pytest.mark.parametrize("key_value_heads", [1, 4])
def test_activation_bytes_equal_what_autograd_keeps(key_value_heads: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def kept(layers: int, tokens: int = 64) -> tuple[int, LlamaConfig]:
        config = LlamaConfig(
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=key_value_heads,
            vocab_size=64,
            attn_implementation="sdpa",
        )
        model = LlamaForCausalLM(config).to(torch.bfloat16).train()
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        saved: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model.model(torch.zeros(1, tokens, dtype=torch.long))
        return sum(t.untyped_storage().nbytes() for t in saved.values()), config

    one, config = kept(1)
    two, _ = kept(2)
    assert (two - one) / 64 == pytest.approx(shape_of(config.to_dict()).saved_bytes(2), rel=0.01)


@pytest.mark.parametrize(("size", "workers"), [("7b", 8), ("13b", 8), ("70b", 32)])
def test_the_papers_recipes_load_fit_80_gib_and_have_the_papers_epochs(size: str, workers: int) -> None:
    sizing = sizing_of(size)
    assert sizing.fits is True
    assert sizing.workers == workers
    assert (sizing.steps, sizing.items, sizing.tokens) == (2000, 128_000, 2000 * 64 * 4096)
    assert {n: round(s.epochs or 0, 2) for n, s in sizing.sources.items()} == {
        "agent": 13.72,
        "gpt4": 5.58,
        "gpt35": 1.43,
    }
    text = format_sizing(sizing)
    assert "fits" in text
    assert "at most 524.3 M tokens" in text
    assert "the paper's counts" in text


def test_arithmetic_of_the_7b_run_is_the_known_estimate() -> None:
    sizing = sizing_of("7b")
    assert sizing.flops == pytest.approx(6 * 6.7e9 * 524e6, rel=0.1)
    assert sizing.gpu_hours == pytest.approx(15, rel=0.1)


def test_states_are_sixteen_bytes_a_parameter_divided_by_the_workers() -> None:
    shape = shape_of(known_architectures["llama-2-7b-chat-hf"])
    training = load_recipe(CONFIGS / "agentlm-7b.yaml").training
    for workers in (1, 8, 64):
        memory = memory_per_worker(shape, training.model_copy(update={"workers": workers}))
        per_worker = shape.parameters / workers
        states = memory["parameters"] + memory["gradients"] + memory["optimizer states"]
        assert states * GIB == pytest.approx(16 * per_worker + 4 * min(per_worker, 1e9))
    whole = memory_per_worker(shape, training.model_copy(update={"workers": 8, "zero_stage": 0}))
    assert whole["parameters"] * GIB == pytest.approx(2 * shape.parameters)
    second = memory_per_worker(shape, training.model_copy(update={"workers": 8, "zero_stage": 2}))
    assert second["parameters"] * GIB == pytest.approx(2 * shape.parameters)
    assert second["gradients"] * GIB == pytest.approx(2 * shape.parameters / 8)


def test_offload_moves_optimizer_states_to_the_host() -> None:
    sizing = sizing_of("7b", "training.offload_optimizer=true")
    assert "optimizer states" not in sizing.memory
    assert sizing.host * GIB == pytest.approx(16 * 6_738_415_616 / 8)
    assert "host memory" in format_sizing(sizing)


def test_checkpointing_keeps_one_block_and_the_layers_inputs() -> None:
    kept = sizing_of("7b").memory["activations"]
    less = sizing_of("7b", "training.activation_checkpointing=true").memory["activations"]
    shape = shape_of(known_architectures["llama-2-7b-chat-hf"])
    assert kept * GIB == 4096 * 32 * shape.saved_bytes(2)
    assert less * GIB == 4096 * (32 * 2 * 4096 + shape.saved_bytes(2))


@pytest.mark.parametrize(
    ("size", "override"),
    [
        ("7b", "training.workers=1"),
        ("70b", "training.workers=8"),
        ("13b", "training.activation_checkpointing=false"),
        ("70b", "training.zero_stage=0"),
    ],
)
def test_what_does_not_fit_is_said_with_remedies_that_do(size: str, override: str) -> None:
    gib = 60.0 if size == "13b" else 80.0
    sizing = sizing_of(size, override, gpu_gib=gib)
    assert sizing.fits is False
    assert "DOES NOT FIT" in format_sizing(sizing)
    assert sizing.remedies
    for remedy in sizing.remedies:
        assert sizing_of(size, override, *remedy.split(", "), gpu_gib=gib).fits is True, remedy


def test_a_gpu_that_no_setting_serves_is_said() -> None:
    assert sizing_of("70b", gpu_gib=4.0).remedies == (
        "no setting of this recipe: take a larger GPU or a smaller model",
    )


def test_known_items_replace_bounds() -> None:
    stats = {name: {"items": 1000.0, "mean_tokens": 1024.0} for name in ("agent", "gpt4", "gpt35")}
    sizing = sizing_of("7b", item_stats=stats)
    assert sizing.tokens == 128_000 * 1024
    assert sizing.tokens_bound == ""
    assert sizing.sources["agent"].epochs == pytest.approx(25.6)
    assert sizing.rows_per_step == 17
    assert "paper's counts" not in format_sizing(sizing)


def test_workers_without_rows_are_said() -> None:
    stats = {name: {"items": 1000.0, "mean_tokens": 512.0} for name in ("agent", "gpt4", "gpt35")}
    assert "23 of 32 workers with empty rows" in format_sizing(sizing_of("70b", item_stats=stats))


def test_the_default_recipe_is_sized_on_the_cpu() -> None:
    config = known_architecture("smollm2-135m")
    assert config is not None
    sizing = size_recipe(Recipe(), config)
    assert sizing.fits is None
    assert sizing.gpu_hours is None
    assert sizing.total < 12, "the demo stays under 12 GiB"
    assert sizing.sources["agent"].items == 300
    assert sizing.sources["agent"].bound == "at least"
    text = format_sizing(sizing)
    assert "CPU worker" in text
    assert "at least" in text


def test_a_limit_bounds_a_sources_items() -> None:
    sizing = sizing_of("7b", "mixture.sources.gpt35.limit=1000")
    assert sizing.sources["gpt35"].items == 1000


def test_models_of_another_form_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="lacks num_hidden_layers, num_attention_heads"):
        shape_of({"hidden_size": 8, "vocab_size": 8, "intermediate_size": 8, "n_layer": 2})
    assert known_architecture("some/other-model") is None
    assert known_architecture("meta-llama/Llama-2-7b-chat-hf/") is known_architectures["llama-2-7b-chat-hf"]
