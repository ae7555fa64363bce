from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import exported_weights, plan_for, run_workers, small_training
from test_export import assert_same_weights
from test_loop import assert_close, history

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Lora
from agenttuning.storage import Store
from agenttuning.training.architectures import shape_of
from agenttuning.training.batch import Items
from agenttuning.training.export import export_model
from agenttuning.training.loop import TrainConfig, train

LORA = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def plain(model: Path, items: dict[str, Items], tmp_path_factory: pytest.TempPathFactory) -> Store:
    output = Store(str(tmp_path_factory.mktemp("plain") / "run"))
    training = small_training(lora=LORA)
    train(TrainConfig(training, model, output, seed=1), plan_for(items, training), items)
    return output


def test_adapters_learn_and_are_merged_under_the_base_models_names(model: Path, plain: Store) -> None:
    losses = [m["loss"] for m in history(plain)]
    assert losses[-1] < losses[0] - 0.05
    before, after = load_file(model / "model.safetensors"), exported_weights(plain)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= LORA["rank"]


def test_merged_weights_are_the_base_plus_the_scaled_product_of_the_adapters(model: Path, plain: Store) -> None:
    before, after = load_file(model / "model.safetensors"), exported_weights(plain)
    checkpoint = Path(str(plain.local_path())) / "checkpoints/step-00000010/plain.pt"
    adapters = torch.load(checkpoint, weights_only=True)["weights"]
    name = "model.layers.1.mlp.down_proj"
    product = adapters[f"{name}.lora_B.default.weight"] @ adapters[f"{name}.lora_A.default.weight"]
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + 2.0 * product)


@pytest.mark.parametrize(("stage", "world_size"), [(3, 1), (3, 2), (2, 2)])
def test_zero_trains_the_adapters_that_plain_pytorch_does_also_after_a_kill(
    model: Path, store: Store, plain: Store, tmp_path: Path, stage: int, world_size: int
) -> None:
    training = small_training(lora=LORA, zero_stage=stage)
    assert any(run_workers(model, store, tmp_path / "run", training, world_size, kill_at=7))
    run_workers(model, store, tmp_path / "run", training, world_size)
    assert_close(Store(str(tmp_path / "run")), plain, 5e-5)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_checkpoint_gives_the_merged_weights_too(model: Path, store: Store, tmp_path: Path, stage: int) -> None:
    training = small_training(lora=LORA, zero_stage=stage, steps=4, checkpoint_every=4)
    run_workers(model, store, tmp_path / "run", training)
    output = Store(str(tmp_path / "run"))
    merged = exported_weights(output)
    for name in ("trained.json", *output.list("weights/")):
        output.delete(name)
    export_model(model, output, Store(str(tmp_path / "tuned")), Lora(**LORA))
    assert_same_weights(tmp_path / "tuned", merged)


def test_targets_choose_layers_and_unknown_ones_are_refused(
    model: Path, items: dict[str, Items], tmp_path: Path
) -> None:
    output = Store(str(tmp_path / "run"))
    training = small_training(lora={**LORA, "targets": ["q_proj"]}, steps=2)
    train(TrainConfig(training, model, output), plan_for(items, training), items)
    before, after = load_file(model / "model.safetensors"), exported_weights(output)
    assert {n for n in before if not torch.equal(before[n], after[n])} == {n for n in before if "q_proj" in n}
    wrong = small_training(lora={**LORA, "targets": ["query"]})
    with pytest.raises(ConfigurationError, match=r"training\.lora\.targets=\['query'\].*Known: .*q_proj"):
        train(TrainConfig(wrong, model, Store(str(tmp_path / "wrong"))), plan_for(items, wrong), items)


def test_sizing_counts_the_adapters(model: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(model)
    causal = AutoModelForCausalLM.from_config(config)
    inject_adapter_in_model(LoraConfig(r=4, target_modules="all-linear"), causal)
    trained = sum(p.numel() for p in causal.parameters() if p.requires_grad)
    assert shape_of(config.to_dict()).adapter_parameters(4) == trained
