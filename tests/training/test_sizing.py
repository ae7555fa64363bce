from pathlib import Path
from typing import Any

import pytest

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Recipe, load_recipe
from agenttuning.training.architectures import known_architecture, known_architectures, shape_of
from agenttuning.training.gpus import GPUS, Gpu, find_gpu, ray_name
from agenttuning.training.memory import GIB, memory_per_worker
from agenttuning.training.sizing import ASSUMED_MFU, Sizing, check_fits, format_sizing, size_recipe

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
def test_the_papers_recipes_load_fit_80_gb_and_have_the_papers_epochs(size: str, workers: int) -> None:
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
    assert sizing.gpu is find_gpu("H100")
    assert sizing.tokens_per_second == pytest.approx(8 * 989e12 * ASSUMED_MFU * sizing.tokens / sizing.flops, rel=1e-6)
    assert sizing.hours == pytest.approx(sizing.tokens / (sizing.tokens_per_second or 0) / 3600, rel=1e-6)
    text = format_sizing(sizing)
    assert "assuming 40% of the 989 TFLOP/s peak of each H100" in text
    assert "names no GPU: counted for H100" in text


def test_states_are_eighteen_bytes_a_parameter_divided_by_the_workers() -> None:
    shape = shape_of(known_architectures["llama-2-7b-chat-hf"])
    training = load_recipe(CONFIGS / "agentlm-7b.yaml").training
    for workers in (1, 8, 64):
        update = {"workers": workers}
        memory = memory_per_worker(shape, training.model_copy(update=update), "bfloat16", 4096)
        states = memory["parameters"] + memory["gradients"] + memory["optimizer states"]
        assert states * GIB == pytest.approx(18 * shape.parameters / workers)
    update = {"workers": 8, "zero_stage": 2}
    second = memory_per_worker(shape, training.model_copy(update=update), "bfloat16", 4096)
    assert second["parameters"] * GIB == pytest.approx(2 * shape.parameters)
    assert second["optimizer states"] * GIB == pytest.approx(12 * shape.parameters / 8)


def test_adapters_and_frozen_embeddings_have_states_alone_for_what_is_trained() -> None:
    shape = shape_of(known_architectures["llama-2-7b-chat-hf"])
    some = sizing_of("7b", "training.lora={rank: 8, targets: [q_proj, v_proj]}")
    assert some.trained == 32 * 8 * 2 * (4096 + 4096) == shape.adapter_parameters(8, ("q_proj", "v_proj"))
    assert some.memory["optimizer states"] * GIB == pytest.approx(12 * some.trained / 8)
    assert some.memory["parameters"] * GIB == pytest.approx(2 * (shape.parameters + some.trained) / 8)
    assert "4.19 M trained" in format_sizing(some)
    assert (some.hours or 0) < 0.7 * (sizing_of("7b").hours or 0), "no gradients of frozen weights"
    frozen = sizing_of("7b", "training.freeze_embeddings=true")
    assert frozen.trained == shape.parameters - 2 * 32000 * 4096
    assert "of them trained" in format_sizing(frozen)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_gpu_is_counted_by_name(gpu: Gpu) -> None:
    sizing = sizing_of("7b", f"training.accelerator_type={gpu.name}", "training.dtype=auto")
    assert sizing.gpu is gpu
    assert sizing.dtype == ("float32" if gpu.bf16_tflops is None else "bfloat16")
    assert sizing.fits is (sizing.total <= gpu.gib)
    assert f"8 x {gpu.name} of {gpu.gib:g} GiB" in format_sizing(sizing)


def test_the_gpu_that_serves_is_the_one_that_trains_where_training_names_none() -> None:
    assert sizing_of("7b", "serving.accelerator_type=L40S").gpu is find_gpu("L40S")
    both = sizing_of("7b", "serving.accelerator_type=L40S", "training.accelerator_type=H200")
    assert both.gpu is find_gpu("h200")
    assert find_gpu("A100").name == "A100-40G"
    with pytest.raises(ConfigurationError, match=r"accelerator_type=B7000: .* known: A100-40G, .*H100"):
        sizing_of("7b", "training.accelerator_type=B7000")
    with pytest.raises(ConfigurationError, match=r"^serving\.accelerator_type=B7000: .*set training\.accelerator_type"):
        sizing_of("7b", "serving.accelerator_type=B7000")


def test_gpus_have_the_names_by_which_ray_finds_them() -> None:
    from ray.util.accelerators import accelerators

    known = {value for name, value in vars(accelerators).items() if name.startswith("NVIDIA")}
    assert {ray_name(gpu.name) for gpu in GPUS} - {"A10"} <= known
    assert {"L4", "T4", "B200", "GB200"} <= {gpu.name for gpu in GPUS}
    names = ("a100-80g", "A100-80GB", "A100", "h100", "V100-32G", "AMD-Instinct-MI300X")
    assert [ray_name(name) for name in names] == ["A100", "A100", "A100", "H100", "V100", "AMD-Instinct-MI300X"]


def test_bfloat16_on_a_gpu_without_it_is_said() -> None:
    assert "V100 has no bfloat16" in format_sizing(sizing_of("7b", "training.accelerator_type=V100"))


def test_recomputation_and_idle_workers_take_time() -> None:
    plain = sizing_of("7b").hours or 0
    again = sizing_of("7b", "training.activation_checkpointing=true").hours or 0
    assert again == pytest.approx(plain * 8 / 6, rel=1e-6)
    assert sizing_of("7b", "training.workers=48").hours == pytest.approx(plain * 8 / 48 * 96 / 64, rel=1e-6)


def test_offload_moves_optimizer_states_to_the_host() -> None:
    sizing = sizing_of("7b", "training.offload_optimizer=true")
    assert "optimizer states" not in sizing.memory
    assert sizing.host * GIB == pytest.approx(16 * 6_738_415_616 / 8)
    assert "host memory" in format_sizing(sizing)


def test_checkpointing_keeps_one_block_and_the_layers_inputs() -> None:
    kept = sizing_of("7b").memory["activations"]
    recomputed = sizing_of("7b", "training.activation_checkpointing=true").memory
    less = recomputed["activations"] + recomputed["logits"]
    shape = shape_of(known_architectures["llama-2-7b-chat-hf"])
    assert kept * GIB == pytest.approx(4096 * 32 * shape.saved_bytes(2), rel=0.03)
    inputs, block = 4096 * 32 * 2 * 4096, 4096 * shape.saved_bytes(2)
    assert inputs + block < less * GIB < inputs + 1.5 * block


def small_gpu(gib: float) -> Gpu:
    return Gpu("small", gib, 100.0, 10.0)


@pytest.mark.parametrize(
    ("size", "override", "gib"),
    [
        ("7b", "training.workers=1", 79.1),
        ("70b", "training.workers=8", 79.1),
        ("13b", "training.activation_checkpointing=false", 40.0),
        ("70b", "training.zero_stage=0", 79.1),
        ("7b", "training.workers=8", 24.0),
    ],
)
def test_what_does_not_fit_is_refused_with_remedies_that_do(size: str, override: str, gib: float) -> None:
    sizing = sizing_of(size, override, gpu=small_gpu(gib))
    assert sizing.fits is False
    assert "DOES NOT FIT" in format_sizing(sizing)
    assert 1 <= len(sizing.remedies) <= 6
    with pytest.raises(ConfigurationError, match=rf"a worker needs .* GiB, small has {gib:g}") as refused:
        check_fits(sizing)
    for remedy in sizing.remedies:
        assert remedy in str(refused.value)
        overrides = remedy.partition(" (")[0].split(", ")
        assert sizing_of(size, override, *overrides, gpu=small_gpu(gib)).fits is True, remedy
        for left_out in overrides if "max_length" not in remedy else ():
            fewer = [text for text in overrides if text != left_out]
            assert sizing_of(size, override, *fewer, gpu=small_gpu(gib)).fits is False, f"{remedy} without {left_out}"
    check_fits(sizing_of("7b"))


def test_remedies_name_more_workers_shorter_rows_offload_recomputation_and_adapters() -> None:
    named = " ".join(
        remedy
        for gib in (16.0, 24.0, 32.0, 40.0)
        for workers in (1, 4, 8)
        for remedy in sizing_of("7b", f"training.workers={workers}", gpu=small_gpu(gib)).remedies
    )
    for setting in ("workers", "row_tokens", "offload_optimizer", "activation_checkpointing", "lora"):
        assert f"training.{setting}=" in named
    assert "GiB of host memory per worker" in named


def test_a_gpu_that_no_setting_serves_is_said() -> None:
    assert sizing_of("70b", gpu=small_gpu(4.0)).remedies == (
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
    assert sizing.tokens_per_second is None
    check_fits(sizing)
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
