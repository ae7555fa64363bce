import math
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file
from small_runs import exported_weights, plan_for, run_workers, save_small_model, small_training, write_items

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Training
from agenttuning.storage import Store
from agenttuning.training.batch import Items, load_items, make_batch
from agenttuning.training.device import Numerics, choose_numerics
from agenttuning.training.engine import load_causal, make_engine
from agenttuning.training.loop import TrainConfig, train
from agenttuning.training.plain import PlainEngine
from agenttuning.training.summary import read_summary
from agenttuning.training.zero import zero_config


@pytest.fixture(scope="module")
def one_rank(model: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Plain PyTorch on one process: what the others are compared with."""
    output = tmp_path_factory.mktemp("plain") / "run"
    items = load_items(store, ["agent", "general"])
    training = small_training()
    train(TrainConfig(training, model, Store(str(output)), seed=1), plan_for(items, training), items)
    return Store(str(output))


def history(output: Store) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in output.read("metrics.jsonl").splitlines()]


def assert_close(found: Store, wanted: Store, tolerance: float) -> None:
    mine, other = exported_weights(found), exported_weights(wanted)
    assert mine.keys() == other.keys()
    for name, weight in other.items():
        torch.testing.assert_close(mine[name], weight, rtol=tolerance, atol=tolerance)
    for a, b in zip(history(found), history(wanted), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"zero_stage": 3}, {"zero_stage": 3, "activation_checkpointing": True}, {"zero_stage": 2}],
    ids=["zero3", "zero3-recomputed", "zero2"],
)
def test_two_ranks_train_what_one_does(
    model: Path, store: Store, one_rank: Store, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """float32, ten steps at a high learning rate; some ranks have empty rows, and rows differ in supervised tokens."""
    plans = [plan_for(load_items(store, ["agent", "general"]), small_training(), 2).step(n) for n in range(10)]
    assert any(not row for p in plans for rank in p.ranks for row in rank), "some row is empty"
    run_workers(model, store, tmp_path / "run", small_training(**changes), world_size=2)
    assert_close(Store(str(tmp_path / "run")), one_rank, 5e-5)


def test_shared_beginnings_train_what_separate_items_do(model: Path, tmp_path: Path) -> None:
    """float32, ten steps at a high learning rate: on one rank, and on two under ZeRO-3."""
    store = write_items(tmp_path / "items", common=70)
    items = load_items(store, ["agent", "general"])
    outputs = {name: Store(str(tmp_path / name)) for name in ("apart", "tree", "ranks")}
    for name, share in (("apart", False), ("tree", True)):
        training = small_training(share_prefixes=share, row_tokens=256, items_per_step=10)
        train(TrainConfig(training, model, outputs[name], seed=1), plan_for(items, training), items)
    run_workers(model, store, tmp_path / "ranks", training.model_copy(update={"zero_stage": 3}), world_size=2)
    assert sum(m["shared_tokens"] for m in history(outputs["tree"])) > 500
    assert read_summary(outputs["tree"]).prefix_tokens_saved > 500  # type: ignore[union-attr]
    for name in ("tree", "ranks"):
        assert_close(outputs[name], outputs["apart"], 5e-5)
        assert history(outputs[name])[-1]["items/agent"] == history(outputs["apart"])[-1]["items/agent"]


def test_zero_on_one_rank_trains_what_plain_pytorch_does(
    model: Path, store: Store, one_rank: Store, tmp_path: Path
) -> None:
    run_workers(model, store, tmp_path / "run", small_training(zero_stage=3))
    assert_close(Store(str(tmp_path / "run")), one_rank, 5e-5)


def test_zero_in_bfloat16_sees_the_positions_that_plain_pytorch_sees(
    model: Path, store: Store, items: dict[str, Items], tmp_path: Path
) -> None:
    """Loading sharded once rounded the rotary frequencies: the first loss tells."""
    training = small_training(dtype="bfloat16", steps=1)
    run_workers(model, store, tmp_path / "zero", training.model_copy(update={"zero_stage": 3}))
    train(TrainConfig(training, model, Store(str(tmp_path / "plain"))), plan_for(items, training), items)
    losses = [history(Store(str(tmp_path / name)))[0]["loss"] for name in ("zero", "plain")]
    assert losses[0] == losses[1]


def test_the_loss_of_a_step_is_the_mean_over_its_supervised_tokens(
    model: Path, items: dict[str, Items], one_rank: Store
) -> None:
    training = small_training()
    engine = make_engine(model, training, choose_numerics(training))
    step = plan_for(items, training).step(0)
    each = [engine.losses(make_batch(row, items), 1.0)[1] for row in step.ranks[0]]
    losses = torch.cat(each)
    assert len(losses) == step.supervised
    assert len(step.ranks[0]) > 1
    first = history(one_rank)[0]
    assert first["loss"] == pytest.approx(losses.mean().item(), rel=1e-6)


def test_metrics_tell_the_realised_mixture_and_speed(one_rank: Store) -> None:
    told = history(one_rank)
    assert [m["step"] for m in told] == list(range(1, 11))
    last = told[-1]
    assert last["items/agent"] + last["items/general"] == 60
    assert abs(last["items/agent"] - 15) <= 1
    assert last["share/general"] == pytest.approx(last["items/general"] / 60)
    for metrics in told:
        assert 0 < metrics["packing_efficiency"] <= 1
        assert metrics["supervised_tokens_per_second"] < metrics["tokens_per_second"]
        assert metrics["peak_memory_bytes"] > 1 << 20
        assert metrics["total_steps"] == 10
    assert told[-1]["loss"] < told[0]["loss"] / 1.3
    summary = read_summary(one_rank)
    assert summary is not None
    assert summary.items == {"agent": last["items/agent"], "general": last["items/general"]}
    assert summary.tokens == sum(m["tokens"] for m in told)


def test_a_finished_run_does_nothing_again(model: Path, items: dict[str, Items], one_rank: Store) -> None:
    training = small_training()
    before = {n: one_rank.read(n) for n in one_rank.list(suffix=".json")}
    nowhere = model / "not-there"
    again = train(TrainConfig(training, nowhere, one_rank), plan_for(items, training), items)
    assert again == read_summary(one_rank)
    assert {n: one_rank.read(n) for n in one_rank.list(suffix=".json")} == before


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    model: Path, items: dict[str, Items], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = small_training(steps=3)
    numerics = choose_numerics(training)
    engine = make_engine(model, training, numerics)
    assert isinstance(engine, PlainEngine)
    batch = make_batch(plan_for(items, training).step(0).ranks[0][0], items)
    before = {n: w.clone() for n, w in engine.weights()}
    total, _ = engine.losses(batch, math.inf)
    engine.backward(total, last=True)
    norm, updated = engine.step(1e-2)
    assert not math.isfinite(norm)
    assert not updated
    assert all(torch.equal(before[n], w) for n, w in engine.weights())
    total, _ = engine.losses(batch, 1.0)
    engine.backward(total, last=True)
    norm, updated = engine.step(1e-2)
    assert math.isfinite(norm), "nothing of the bad step is left"
    assert updated


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_that_diverges_stops_with_the_cure(model: Path, store: Store, tmp_path: Path, stage: int) -> None:
    training = small_training(learning_rate=1e30, max_bad_steps=2, max_grad_norm=1e30, zero_stage=stage)
    with pytest.raises(AssertionError, match=r"3 steps were not finite.*training.max_bad_steps=2"):
        run_workers(model, store, tmp_path / "run", training)


def test_a_time_limit_cuts_the_steps_before_the_cosine_begins(
    model: Path, items: dict[str, Items], tmp_path: Path
) -> None:
    training = small_training(steps=400, max_seconds=2.0, checkpoint_every=1000)
    notes: list[str] = []
    output = Store(str(tmp_path))
    summary = train(TrainConfig(training, model, output), plan_for(items, training), items, None, notes.append)
    assert summary is not None
    assert 4 < summary.steps < 400
    assert summary.planned_steps == 400
    assert any("cut from 400 to" in note for note in notes)
    rates = [m["learning_rate"] for m in history(output)]
    assert rates[-1] == pytest.approx(training.learning_rate * training.min_learning_rate_ratio)
    assert len({m["total_steps"] for m in history(output)[4:]}) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"offload_optimizer": True}, "offload_optimizer"),
        ({"use_gpu": True}, "training.use_gpu"),
        ({"attention": "flash_attention_2"}, "flash_attention_2"),
    ],
)
def test_what_cannot_work_is_refused(
    model: Path, items: dict[str, Items], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    if changes.get("use_gpu") and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    training = small_training(**changes)
    with pytest.raises(ConfigurationError, match=named):
        train(TrainConfig(training, model, Store(str(tmp_path))), plan_for(items, training), items)


def test_a_plan_for_other_ranks_is_refused(model: Path, items: dict[str, Items], tmp_path: Path) -> None:
    training = small_training()
    with pytest.raises(ConfigurationError, match="made for 2 workers"):
        train(TrainConfig(training, model, Store(str(tmp_path))), plan_for(items, training, 2), items)


def test_activation_checkpointing_changes_nothing_but_memory(
    model: Path, items: dict[str, Items], one_rank: Store, tmp_path: Path
) -> None:
    training = small_training(activation_checkpointing=True)
    train(TrainConfig(training, model, Store(str(tmp_path)), seed=1), plan_for(items, training), items)
    assert_close(Store(str(tmp_path)), one_rank, 1e-6)


def test_activation_checkpointing_keeps_only_what_enters_each_layer(model: Path) -> None:
    """Counted are the tensors that autograd keeps for the backward pass, without weights."""

    def kept(recompute: bool) -> int:
        training = small_training(activation_checkpointing=recompute)
        causal = load_causal(model, training, choose_numerics(training), trust_remote_code=False)
        causal.enable_input_require_grads()
        weights = {w.untyped_storage().data_ptr() for w in causal.parameters()}
        found: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            causal.base_model(input_ids=torch.arange(64)[None], use_cache=False)
        return sum(found.values())

    assert kept(recompute=True) < kept(recompute=False) / 3


@pytest.mark.parametrize(("offload", "stage"), [(True, 3), (True, 1), (False, 3)])
def test_offload_is_what_deepspeed_is_told(offload: bool, stage: int) -> None:
    training = small_training(offload_optimizer=offload, zero_stage=stage, use_gpu=True)
    told = zero_config(training, Numerics("cuda:0", "bfloat16", "varlen"), 64, 2)["zero_optimization"]
    assert told["stage"] == stage
    assert told.get("offload_optimizer") == ({"device": "cpu", "pin_memory": True} if offload else None)


def frozen_zero(recompute: bool) -> Training:
    return small_training(freeze_embeddings=True, zero_stage=3, activation_checkpointing=recompute)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_frozen_embeddings_stay_as_they_are_in_every_engine(
    items: dict[str, Items], store: Store, tmp_path: Path, tied: bool
) -> None:
    base = save_small_model(tmp_path / "model", tied=tied)
    frozen = small_training(freeze_embeddings=True)
    train(TrainConfig(frozen, base, Store(str(tmp_path / "plain"))), plan_for(items, frozen), items)
    assert run_workers(base, store, tmp_path / "two", frozen_zero(recompute=True), 2, kill_at=7) != [0, 0]
    run_workers(base, store, tmp_path / "two", frozen_zero(recompute=True), 2)
    run_workers(base, store, tmp_path / "one", frozen_zero(recompute=False))
    for name in ("two", "one"):
        assert_close(Store(str(tmp_path / name)), Store(str(tmp_path / "plain")), 5e-5)
    before, after = load_file(base / "model.safetensors"), exported_weights(Store(str(tmp_path / "plain")))
    still = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert still == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})


def test_auto_takes_bfloat16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for amx, avx, dtype in ((True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda found=amx: found)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=avx: found)
        numerics = choose_numerics(Training())
        assert numerics.dtype == dtype
        assert dtype in numerics.notes[0]
