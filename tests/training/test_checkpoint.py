import resource
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import exported_weights, plan_for, run_workers, small_training

from agenttuning.errors import ConfigurationError, DataError, StorageError
from agenttuning.storage import Store
from agenttuning.training.batch import Items
from agenttuning.training.checkpoint import latest_checkpoint
from agenttuning.training.export import export_model
from agenttuning.training.loop import Report, TrainConfig, Wish, train
from agenttuning.training.zero import make_universal


def stop_after(step: int) -> Report:
    """A report that wishes to stop after a step."""
    return lambda metrics: Wish.STOP if metrics["step"] == step else Wish.GO_ON


def equal_bits(a: Path, b: Path) -> bool:
    mine, other = exported_weights(Store(str(a))), exported_weights(Store(str(b)))
    return mine.keys() == other.keys() and all(torch.equal(mine[n], other[n]) for n in other)


@pytest.mark.parametrize(
    ("world_size", "changes"),
    [(1, {}), (1, {"dtype": "bfloat16"}), (1, {"zero_stage": 3, "dtype": "bfloat16"}), (2, {"zero_stage": 3})],
    ids=["plain", "plain-bf16", "zero3-bf16", "zero3-two-ranks"],
)
def test_ten_steps_are_five_a_kill_and_five_more_bit_for_bit(
    model: Path, store: Store, tmp_path: Path, world_size: int, changes: dict[str, Any]
) -> None:
    training = small_training(**changes)
    run_workers(model, store, tmp_path / "whole", training, world_size)
    codes = run_workers(model, store, tmp_path / "cut", training, world_size, kill_at=7)
    assert -signal.SIGKILL in codes
    cut = Store(str(tmp_path / "cut"))
    assert latest_checkpoint(cut) == "checkpoints/step-00000005"
    assert not cut.exists("trained.json")
    run_workers(model, store, tmp_path / "cut", training, world_size)
    assert "continued from step 5" in cut.read_json("trained.json")["notes"]
    assert equal_bits(tmp_path / "whole", tmp_path / "cut")


def test_a_wish_to_stop_leaves_a_checkpoint_and_the_next_run_goes_on_bit_for_bit(
    model: Path, items: dict[str, Items], tmp_path: Path
) -> None:
    training = small_training(steps=6, checkpoint_every=100)
    plan = plan_for(items, training)
    config = TrainConfig(training, model, Store(str(tmp_path / "cut")))
    assert train(config, plan, items, stop_after(2)) is None
    assert latest_checkpoint(config.output) == "checkpoints/step-00000003"
    assert train(config, plan, items) is not None
    train(TrainConfig(training, model, Store(str(tmp_path / "whole"))), plan, items)
    assert equal_bits(tmp_path / "whole", tmp_path / "cut")


def test_a_failed_upload_is_a_message_with_its_cure(
    model: Path, items: dict[str, Items], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "local_path", lambda self: None)
    monkeypatch.setattr(Store, "upload", full)
    training = small_training(steps=1)
    with pytest.raises(StorageError, match=r"No space left.*run.root"):
        train(TrainConfig(training, model, Store(str(tmp_path))), plan_for(items, training), items)


@pytest.mark.parametrize(
    ("stage", "first", "then", "changes"),
    [(3, 2, 1, {}), (3, 1, 2, {"freeze_embeddings": True}), (3, 3, 2, {"lora": {"rank": 4}}), (2, 2, 1, {})],
)
def test_another_number_of_workers_goes_on_within_tolerance(
    model: Path, store: Store, tmp_path: Path, stage: int, first: int, then: int, changes: dict[str, Any]
) -> None:
    training = small_training(zero_stage=stage, **changes)
    assert any(run_workers(model, store, tmp_path / "moved", training, first, kill_at=7))
    run_workers(model, store, tmp_path / "moved", training, then)
    run_workers(model, store, tmp_path / "whole", training, then)
    moved, whole = (exported_weights(Store(str(tmp_path / name))) for name in ("moved", "whole"))
    for name, weight in whole.items():
        torch.testing.assert_close(moved[name], weight, rtol=5e-5, atol=5e-5)
    notes = Store(str(tmp_path / "moved")).read_json("trained.json")["notes"]
    assert f"continued from step 5, which {first} workers saved" in notes
    told = (tmp_path / "moved-0.log").read_text()
    assert f"what {first} workers saved is sorted by weight first; training.collective_timeout_s=1800" in told


def test_what_cannot_be_sorted_by_weight_is_a_message_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "zero").mkdir()
    with pytest.raises(StorageError, match=r"cannot be sorted by weight in .*free space there"):
        make_universal(tmp_path, tmp_path / "sorted")


def test_the_number_of_steps_decided_by_the_time_limit_is_kept(
    model: Path, items: dict[str, Items], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agenttuning.training.loop.steps_within", lambda *_: 12)
    training = small_training(steps=300, max_seconds=1.0, checkpoint_every=5)
    plan = plan_for(items, training)
    config = TrainConfig(training, model, Store(str(tmp_path)))
    totals: list[int] = []

    def watch(metrics: dict[str, Any]) -> Wish:
        totals.append(metrics["total_steps"])
        return stop_after(5)(metrics)

    assert train(config, plan, items, watch) is None
    slow = TrainConfig(training.model_copy(update={"max_seconds": 1000.0}), model, config.output)
    summary = train(slow, plan, items)
    assert summary is not None
    assert summary.steps == totals[-1] == 12


def test_only_the_newest_checkpoints_stay_and_torn_ones_go(
    model: Path, items: dict[str, Items], tmp_path: Path
) -> None:
    training = small_training(steps=5, checkpoint_every=1, keep_checkpoints=2)
    output = Store(str(tmp_path))
    output.write("checkpoints/step-00000002/plain.pt", b"torn: the worker died before it was complete")
    train(TrainConfig(training, model, output), plan_for(items, training), items)
    kept = {n.split("/")[1] for n in output.list("checkpoints/")}
    assert kept == {"step-00000004", "step-00000005"}


def test_a_torn_checkpoint_is_not_resumed_from(model: Path, items: dict[str, Items], tmp_path: Path) -> None:
    training = small_training(steps=3, checkpoint_every=100)
    output = Store(str(tmp_path))
    output.write("checkpoints/step-00000002/plain.pt", b"torn")
    notes: list[str] = []
    summary = train(TrainConfig(training, model, output), plan_for(items, training), items, None, notes.append)
    assert summary is not None
    assert not any("continued" in note for note in notes)


def test_what_a_killed_save_of_more_workers_left_behind_does_not_get_into_the_next_checkpoint(
    model: Path, store: Store, tmp_path: Path
) -> None:
    """Two workers die in the save of step 10, one goes on from step 5 and saves it again, two go on from there."""
    training = small_training(zero_stage=3, dtype="bfloat16")
    output = Store(str(tmp_path / "run"))
    run_workers(model, store, tmp_path / "run", training, 2)
    unfinish(output)
    output.delete("checkpoints/step-00000010/complete.json")
    run_workers(model, store, tmp_path / "run", training, 1)
    notes = output.read_json("trained.json")["notes"]
    assert "checkpoints/step-00000010 was cut off while it was written: deleted" in notes
    files = {name.rpartition("/")[2] for name in output.list("checkpoints/step-00000010/")}
    assert not {name for name in files if "rank-00001" in name or "rank_1_" in name}
    wanted = exported_weights(output)
    unfinish(output)
    run_workers(model, store, tmp_path / "run", training, 2)
    found = exported_weights(output)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_save_begins_in_an_empty_directory(model: Path, items: dict[str, Items], tmp_path: Path) -> None:
    """Files may come there after the resume too: a save of this run that was cut off."""
    training = small_training(steps=2, checkpoint_every=2)
    output = Store(str(tmp_path))

    def litter(metrics: dict[str, Any]) -> Wish:
        output.write("checkpoints/step-00000002/rank-00001.pt", b"of a rank that is no more")
        return Wish.GO_ON

    train(TrainConfig(training, model, output), plan_for(items, training), items, litter)
    assert not output.exists("checkpoints/step-00000002/rank-00001.pt")


def unfinish(output: Store) -> None:
    """Delete what a finished training leaves, but its checkpoints."""
    for name in ("trained.json", *output.list("weights/")):
        output.delete(name)


def test_a_checkpoint_of_other_data_is_refused(model: Path, items: dict[str, Items], tmp_path: Path) -> None:
    training = small_training(steps=4, checkpoint_every=2)
    config = TrainConfig(training, model, Store(str(tmp_path)))
    assert train(config, plan_for(items, training), items, stop_after(2)) is None
    other = small_training(steps=4, items_per_step=5)
    with pytest.raises(ConfigurationError, match=r"other settings \(plan: .*run.name"):
        train(TrainConfig(other, model, config.output), plan_for(items, other), items)


def test_an_unwritable_directory_is_a_message_with_its_cure(
    model: Path, items: dict[str, Items], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agenttuning.training.checkpoint_writer.torch.save", full)
    training = small_training(steps=1)
    with pytest.raises(StorageError, match=r"No space left.*run.root"):
        train(TrainConfig(training, model, Store(str(tmp_path))), plan_for(items, training), items)


def test_an_error_of_a_save_that_is_not_the_disks_is_raised_as_it_is(
    model: Path, items: dict[str, Items], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("agenttuning.training.plain.PlainEngine.save", lost)
    training = small_training(steps=1)
    with pytest.raises(RuntimeError, match=r"^Connection closed by peer$"):
        train(TrainConfig(training, model, Store(str(tmp_path))), plan_for(items, training), items)


def test_what_another_version_wrote_is_a_message_with_its_cure(
    model: Path, items: dict[str, Items], tmp_path: Path
) -> None:
    training = small_training(steps=4, checkpoint_every=2)
    plan, output = plan_for(items, training), Store(str(tmp_path))
    config = TrainConfig(training, model, output)
    assert train(config, plan, items, stop_after(2)) is None
    name = f"{latest_checkpoint(output)}/complete.json"
    about = output.read_json(name)
    output.write_json(name, {**about, "of_tomorrow": 1})
    with pytest.raises(DataError, match=r"another version wrote it \(.*of_tomorrow.*run\.name"):
        train(config, plan, items)
    output.write_json(name, about)
    assert train(config, plan, items) is not None
    output.write_json("trained.json", {"steps": 4})
    with pytest.raises(DataError, match=r"trained\.json: another version wrote it .*run\.name"):
        train(config, plan, items)


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint_to_go_on_from(
    model: Path, items: dict[str, Items], tmp_path: Path
) -> None:
    """From step 3 on, the system refuses files above 100 kB."""
    training = small_training(steps=6, checkpoint_every=2, keep_checkpoints=1)
    plan = plan_for(items, training)
    config = TrainConfig(training, model, Store(str(tmp_path / "full")))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def watch(metrics: dict[str, Any]) -> Wish:
        if metrics["step"] == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        return Wish.GO_ON

    try:
        with pytest.raises(StorageError, match=r"step-00000004: the checkpoint cannot be written .*continues from"):
            train(config, plan, items, watch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert latest_checkpoint(config.output) == "checkpoints/step-00000002"
    assert train(config, plan, items) is not None
    train(TrainConfig(training, model, Store(str(tmp_path / "whole"))), plan, items)
    assert equal_bits(tmp_path / "whole", tmp_path / "full")


def test_checkpoints_in_an_object_store(
    model: Path, items: dict[str, Items], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stops and goes on against an S3 API on loopback gives the weights of a local one."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileSystem

    # Whole models do not fit into what is often memory.
    monkeypatch.setenv("AGENTTUNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    training = small_training(steps=6, checkpoint_every=2)
    plan = plan_for(items, training)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        query = f"endpoint_override={server.get_host_and_port()[0]}:{server.get_host_and_port()[1]}&scheme=http"
        uri = f"s3://runs/one?{query}&region=us-east-1&allow_bucket_creation=true"
        FileSystem.from_uri(uri)[0].create_dir("runs")
        remote = Store(uri)
        config = TrainConfig(training, model, remote)
        begun, released = threading.Event(), threading.Event()
        upload = Store.upload

        def slow_upload(store: Store, local_dir: Path, name: str) -> None:
            begun.set()
            assert released.wait(60)
            upload(store, local_dir, name)

        def watch(metrics: dict[str, Any]) -> Wish:
            if metrics["step"] == 3:
                # A step was trained while the checkpoint before it had only begun to be uploaded.
                assert begun.wait(60)
                assert latest_checkpoint(remote) is None
                released.set()
            return stop_after(3)(metrics)

        monkeypatch.setattr(Store, "upload", slow_upload)
        assert train(config, plan, items, watch) is None
        assert latest_checkpoint(remote) == "checkpoints/step-00000004"
        assert train(config, plan, items) is not None
        weights = exported_weights(remote)
        export_model(model, remote, remote.child("model"))
        assert remote.exists("model/model.safetensors")
    finally:
        server.stop()
    train(TrainConfig(training, model, Store(str(tmp_path / "local"))), plan, items)
    wanted = exported_weights(Store(str(tmp_path / "local")))
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[n], wanted[n]) for n in wanted)
