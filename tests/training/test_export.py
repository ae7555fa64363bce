import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import (
    VOCABULARY,
    exported_weights,
    plan_for,
    run_workers,
    save_small_model,
    small_training,
)

from agenttuning.errors import DataError, StorageError
from agenttuning.recipe import Recipe, load_recipe
from agenttuning.storage import Store
from agenttuning.training.batch import Items
from agenttuning.training.card import model_card
from agenttuning.training.export import export_model, export_run
from agenttuning.training.loop import TrainConfig, train
from agenttuning.training.weights import write_weights


@pytest.fixture(scope="module")
def trained(tiny_model: Path, items: dict[str, Items], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three steps of the model with a tokenizer, in bfloat16."""
    training = small_training(steps=3, dtype="bfloat16", checkpoint_every=2)
    output = Store(str(tmp_path_factory.mktemp("training")))
    train(TrainConfig(training, tiny_model, output), plan_for(items, training), items)
    return output


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(5, 45)[None]).logits
    return found


def test_the_model_loads_plainly_and_gives_the_logits_of_training(
    tiny_model: Path, trained: Store, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    info = export_run(Recipe(), tiny_model, trained, Store(str(tmp_path / "model")))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    assert info["source"] == "weights"
    assert info["parameters"] == sum(p.numel() for p in model.parameters())
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = logits(base)
    # The tiny model ties its head to its embedding: loading the trained embedding is loading both.
    base.load_state_dict(exported_weights(trained), strict=False)
    assert torch.equal(logits(model), logits(base))
    assert not torch.equal(logits(model), before)
    tokenizer, original = (AutoTokenizer.from_pretrained(p) for p in (tmp_path / "model", tiny_model))
    asked = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(asked, tokenize=False) == original.apply_chat_template(asked, tokenize=False)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_the_card_says_what_it_is_and_the_recipe_loads(tiny_model: Path, trained: Store, tmp_path: Path) -> None:
    source = tmp_path / "recipe.yaml"
    source.write_text("run: {name: trial}\nmodel: {path: org/base}\nmixture: {sources: {agent: {weight: 1, kind: "
                      "trajectories}, general: {weight: 3, kind: sharegpt, path: org/chats}}}")  # fmt: skip
    recipe = load_recipe(source)
    export_run(recipe, tiny_model, trained, Store(str(tmp_path / "model")))
    card = (tmp_path / "model" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["base_model"] == "org/base"
    assert told["datasets"] == ["org/chats"]
    assert "agent-tuning" in told["tags"]
    summary = trained.read_json("trained.json")
    assert f"{summary['tokens']:,} tokens" in body
    assert f"| 0.750 | {summary['items']['general']} |" in body
    assert load_recipe(tmp_path / "model" / "recipe.yaml") == recipe


def test_an_unfinished_run_is_exported_from_its_checkpoint(
    tiny_model: Path, items: dict[str, Items], trained: Store, tmp_path: Path
) -> None:
    training = small_training(steps=3, dtype="bfloat16", checkpoint_every=3)
    cut = Store(str(tmp_path / "training"))
    plan = plan_for(items, training)
    train(TrainConfig(training, tiny_model, cut), plan, items)
    for name in ("trained.json", *cut.list("weights/")):
        cut.delete(name)
    info = export_model(tiny_model, cut, Store(str(tmp_path / "model")))
    assert (info["source"], info["step"]) == ("checkpoints/step-00000003", 3)
    assert_same_weights(tmp_path / "model", exported_weights(trained))


def assert_same_weights(model: Path, wanted: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(model.glob("*.safetensors")):
        found |= load_file(file)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize(("stage", "world_size", "tied"), [(3, 2, False), (3, 1, True), (2, 2, True)])
def test_a_sharded_checkpoint_gives_the_weights_that_were_gathered(
    store: Store, tmp_path: Path, stage: int, world_size: int, tied: bool
) -> None:
    """Gathered layer by layer in training, or read from the shards without a process group: the same bits."""
    model = save_small_model(tmp_path / "model", torch.bfloat16, tied)
    training = small_training(steps=2, checkpoint_every=2, zero_stage=stage, dtype="bfloat16")
    run_workers(model, store, tmp_path / "training", training, world_size)
    output = Store(str(tmp_path / "training"))
    gathered = exported_weights(output)
    assert ("lm_head.weight" in gathered) is not tied
    export_model(model, output, Store(str(tmp_path / "from-weights")))
    assert_same_weights(tmp_path / "from-weights", gathered)
    output.delete("trained.json")
    export_model(model, output, Store(str(tmp_path / "from-shards")))
    assert_same_weights(tmp_path / "from-shards", gathered)


def test_large_weights_go_into_numbered_shards_with_an_index(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    shapes = {n: w.shape for n, w in weights.items()}
    write_weights(shapes, iter(weights.items()), torch.bfloat16, Store(str(tmp_path)), shard_bytes=200_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    assert index["metadata"]["total_size"] == sum(w.numel() for w in weights.values()) * 2
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))


def deep_model(path: Path, layers: int) -> Path:
    """A random Llama of layers of 803,328 parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=layers, num_attention_heads=4,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.parametrize(("stage", "layers", "lora"), [(3, 64, None), (2, 64, None), (3, 24, {"rank": 4, "alpha": 8})])
def test_export_holds_no_more_than_two_layers_a_tensor_and_a_shard(
    store: Store, tmp_path: Path, stage: int, layers: int, lora: dict[str, int] | None
) -> None:
    """Resident memory, mapped files included: 64 layers are 51 M parameters, 206 MB of master weights."""
    from transformers import AutoModelForCausalLM

    training = small_training(
        steps=1, items_per_step=1, checkpoint_every=1, zero_stage=stage, dtype="bfloat16", lora=lora
    )
    spec: dict[str, Any] = {"lora": lora, "output": str(tmp_path / "exported"), "shard_bytes": 10_000_000}
    for name, depth in (("small_", 2), ("", layers)):
        model = deep_model(tmp_path / f"{name}model", depth)
        run_workers(model, store, tmp_path / f"{name}training", training, world_size=2)
        gathered = exported_weights(Store(str(tmp_path / f"{name}training")))
        (tmp_path / f"{name}training" / "trained.json").unlink()
        spec |= {f"{name}model": str(model), f"{name}training": str(tmp_path / f"{name}training")}
    command = [sys.executable, str(Path(__file__).with_name("measure_export.py")), json.dumps(spec)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    memory = json.loads(told.splitlines()[-1])
    layer, largest = 803_328 * 4, 256 * 704 * 4
    assert memory["peak"] - memory["idle"] < 2 * layer + largest + spec["shard_bytes"]
    assert len(list((tmp_path / "exported").glob("*.safetensors"))) > layers // 8
    assert_same_weights(tmp_path / "exported", gathered)
    AutoModelForCausalLM.from_pretrained(tmp_path / "exported")


def test_a_full_disk_is_said_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    weights = {"a": torch.ones(200_000), "b": torch.ones(200_000)}
    shapes = {name: weight.shape for name, weight in weights.items()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"the weights cannot be written .* free space there"):
            write_weights(shapes, iter(weights.items()), torch.float32, Store(str(tmp_path / "full")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "full").iterdir()) == []


def test_a_checkpoint_that_lacks_a_ranks_file_is_refused(store: Store, tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "model", torch.bfloat16)
    training = small_training(steps=1, checkpoint_every=1, zero_stage=3, dtype="bfloat16")
    run_workers(model, store, tmp_path / "training", training, world_size=2)
    output = Store(str(tmp_path / "training"))
    output.delete("trained.json")
    for file in (tmp_path / "training").glob("checkpoints/*/zero/*rank_1_*_optim_states.pt"):
        file.unlink()
    with pytest.raises(DataError, match=r"not a whole checkpoint .*2 ranks saved it, files of 1 are here"):
        export_model(model, output, Store(str(tmp_path / "exported")))
    assert not (tmp_path / "exported").exists()


def test_nothing_trained_is_a_message_with_its_cure(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `agenttuning train` first"):
        export_model(tiny_model, Store(str(tmp_path)), Store(str(tmp_path / "model")))
    assert not (tmp_path / "model").exists()


def test_weights_of_another_model_are_refused(trained: Store, tmp_path: Path) -> None:
    other = save_small_model(tmp_path / "other")
    with pytest.raises(DataError, match=r"not those of the base model \(other shape"):
        export_model(other, trained, Store(str(tmp_path / "model")))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "full fine-tuning of `org/base`"),
        ({"lora": {"rank": 7}}, r"low-rank adapters \(LoRA, rank 7\), merged into the weights, of `org/base`"),
        ({"freeze_embeddings": True}, "token embeddings and output head left as they were, of `org/base`"),
    ],
)
def test_the_card_says_what_was_trained(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"model": {"path": "org/base"}, "training": settings})
    info = {"parameters": 1, "dtype": "bfloat16", "step": 3, "source": "checkpoints/step-00000003"}
    card = model_card(recipe, tmp_path, None, info, {})
    assert re.search(said, card)
    assert ("full fine-tuning" in card) is not bool(settings)
