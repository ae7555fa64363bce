import json
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
from agenttuning.training import lora
from agenttuning.training.architectures import shape_of
from agenttuning.training.batch import Items
from agenttuning.training.device import choose_numerics
from agenttuning.training.engine import make_engine
from agenttuning.training.export import export_model
from agenttuning.training.loop import TrainConfig, Wish, train
from agenttuning.training.memory import tensor_bytes

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_learn_on_a_base_of_4_bits_and_are_merged_into_its_own_weights(
    model: Path, items: dict[str, Items], tmp_path: Path, dtype: str
) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install 'agenttuning[qlora]'")
    training = small_training(lora={**LORA, "quantize": "nf4"}, dtype=dtype, steps=8, checkpoint_every=4)
    output, plan = Store(str(tmp_path / "run")), plan_for(items, training)
    config = TrainConfig(training, model, output, seed=1)
    assert train(config, plan, items, lambda m: Wish.STOP if m["step"] == 3 else Wish.GO_ON) is None
    assert train(config, plan, items) is not None, "it goes on from its checkpoint"
    losses = [m["loss"] for m in history(output)]
    assert losses[-1] < losses[0] - 0.05
    before, after = load_file(model / "model.safetensors"), exported_weights(output)
    assert after.keys() == before.keys()
    checkpoint = Path(str(output.local_path())) / "checkpoints/step-00000008/plain.pt"
    adapters = torch.load(checkpoint, weights_only=True)["weights"]
    assert all(weight.dtype == torch.float32 for weight in adapters.values())
    name = "model.layers.1.mlp.down_proj"
    product = adapters[f"{name}.lora_B.default.weight"] @ adapters[f"{name}.lora_A.default.weight"]
    wanted = before[f"{name}.weight"].to(getattr(torch, dtype)).float() + 2.0 * product
    torch.testing.assert_close(after[f"{name}.weight"], wanted.to(after[f"{name}.weight"].dtype))
    engine = make_engine(model, training, choose_numerics(training))
    held = dict(engine.causal.named_modules())
    linear = [m for n, m in held.items() if n.endswith("_proj.base_layer")]
    assert len(linear) == 14
    assert all(isinstance(m, bitsandbytes.nn.Linear4bit) for m in linear)
    shape = shape_of(json.loads((model / "config.json").read_text()))
    parameters = sum(w.untyped_storage().nbytes() for w in engine.causal.parameters())
    for module in linear:
        scales = module.weight.quant_state
        parameters += scales.absmax.untyped_storage().nbytes() + scales.state2.absmax.untyped_storage().nbytes()
    assert parameters == pytest.approx(tensor_bytes(shape, training, dtype, 60)["parameters"], rel=0.02)


def test_a_quantized_base_is_refused_under_zero_and_without_its_package(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = small_training(lora={**LORA, "quantize": "nf4"}, zero_stage=3)
    numerics = choose_numerics(training)
    with pytest.raises(ConfigurationError, match=r"quantize=nf4 .* ZeRO can neither .*\(training\.zero_stage=3\); set"):
        make_engine(model, training, numerics)
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'agenttuning\[qlora\]'"):
        make_engine(model, training.model_copy(update={"zero_stage": 0}), numerics)
