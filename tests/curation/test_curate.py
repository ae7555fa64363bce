"""Whole curations over stored segments: what is written, what is counted, and that nothing depends on the way."""

import random
import time

import orjson
import pytest
from episodes import OPENING, agent, steps, trajectory

from agenttuning.conversations.agentinstruct import from_agentinstruct
from agenttuning.conversations.sources import load_conversations
from agenttuning.curation import run
from agenttuning.curation.report import CurationReport
from agenttuning.curation.run import curate
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.recipe import Recipe, validate_recipe
from agenttuning.storage import Store
from agenttuning.storage.segments import commit_segment, table_trajectories, trajectories_table
from agenttuning.trajectory import Outcome, ToolCall, Turn

FILES = ("agentinstruct.jsonl", "dropped.parquet", "kept.parquet", "messages.jsonl", "report.json")
RECIPE = validate_recipe({"curation": {"rules": ["reward", "form", "repetition", "duplicate"]}})


def with_rules(*names, **more) -> Recipe:
    return validate_recipe({"curation": {"rules": list(names), **more}})


def stored(path, *segments) -> Store:
    store = Store(str(path))
    for number, trajectories in enumerate(segments):
        commit_segment(store, "w", number, trajectories)
    return store


def sample():
    """Eight trajectories: four kept, and one each for reward, form, repetition and duplicate."""
    looping = steps(("ls", "a"), ("cd", "b"), ("ls", "a"), ("cd", "b"))
    kept = [trajectory(number=0), trajectory(number=1, family="users")]
    kept += [trajectory(steps(("q", "1"), ("r", "2")), environment="db", number=n) for n in (2, 3)]
    dropped = [
        trajectory(number=4, reward=0.0),
        trajectory(environment="db", number=5, outcome=Outcome.STEP_LIMIT),
        trajectory(looping, number=6),
        trajectory(number=0, attempt=1),
    ]
    return kept, dropped


def test_what_is_kept_and_dropped_is_written_and_counted(tmp_path):
    kept, dropped = sample()
    source, target = stored(tmp_path / "t", kept[:3], [*dropped, kept[3]]), Store(str(tmp_path / "c"))
    calls = []
    report = curate(source, target, RECIPE, lambda done, total: calls.append((done, total)))

    assert target.list() == list(FILES)
    assert calls == [(1, 2), (2, 2)]
    twins = {kept[0].id, dropped[3].id}
    written = list(table_trajectories(target.read_table("kept.parquet")))
    assert [t.id for t in written] == sorted({*(t.id for t in kept[1:]), min(twins)})
    terms = {"licence": "not stated", "teacher_terms": "not stated: the terms of p"}
    assert {t.id: t for t in written}[kept[3].id] == kept[3].model_copy(update={"diagnostics": terms})

    rows = {row["id"]: row for row in target.read_table("dropped.parquet").to_pylist()}
    assert {rows[t.id]["rule"] for t in dropped[:3]} == {"reward", "form", "repetition"}
    assert rows[dropped[1].id] == {
        "id": dropped[1].id,
        "environment": "db",
        "family": "files",
        "rule": "form",
        "reason": "the episode ended as step_limit",
        "reward": 1.0,
        "outcome": "step_limit",
    }
    twin = rows[max(twins)]
    assert (twin["rule"], twin["reason"]) == ("duplicate", f"same task and same turns as {min(twins)}")

    assert CurationReport.model_validate_json(target.read("report.json")) == report
    rules = ["dropped_reward", "dropped_form", "dropped_repetition", "dropped_duplicate"]
    assert report.table() == [
        ["environment", "tasks", "collected", "kept", "ratio", "mean_turns", *rules],
        ["db", 3, 3, 2, 0.6667, 2.0, 0, 1, 0, 0],
        ["os", 4, 5, 2, 0.4, 1.0, 1, 0, 1, 1],
        ["total", 7, 8, 4, 0.5, 1.5, 1, 1, 1, 1],
    ]
    assert (report.collected, report.kept) == (8, 4)
    assert report.environments["db"].outcomes == {"completed": 2, "step_limit": 1}
    assert report.families["os"]["users"].kept == 1


def test_the_kept_are_written_as_strict_agentinstruct_records(tmp_path):
    source, target = stored(tmp_path / "t", sample()[0]), Store(str(tmp_path / "c"))
    assert curate(source, target, RECIPE).kept_as == "agentinstruct.jsonl"
    records = [orjson.loads(line) for line in target.read("agentinstruct.jsonl").splitlines()]
    assert all(set(record) == {"conversations", "id"} for record in records)
    by_id = {t.id: t for t in sample()[0]}
    for record in records:
        turns = by_id[record["id"]].turns
        assert [t.content for t in from_agentinstruct(record, "s").turns] == [t.content for t in turns]
        assert [entry["loss"] for entry in record["conversations"]] == [t.loss for t in turns]
    path = str(tmp_path / "c" / "agentinstruct.jsonl")
    assert len(list(load_conversations("agentinstruct", path, "agent"))) == 4


def test_trajectories_with_tools_are_written_as_messages_instead(tmp_path):
    call = ToolCall(id="1", name="bash", arguments="{}")
    turn = agent("ls").model_copy(update={"tool_calls": (call,)})
    tools = ({"type": "function", "function": {"name": "bash"}},)
    played = trajectory((turn, Turn(role="tool", content="a", tool_call_id="1")), tools=tools)
    source, target = stored(tmp_path / "t", [played, trajectory(number=1)]), Store(str(tmp_path / "c"))
    assert curate(source, target, RECIPE).kept_as == "messages.jsonl"
    instruct = [orjson.loads(line)["id"] for line in target.read("agentinstruct.jsonl").splitlines()]
    assert instruct == [trajectory(number=1).id]
    records = [orjson.loads(line) for line in target.read("messages.jsonl").splitlines()]
    assert {record["id"]: record for record in records}[played.id]["tools"] == list(tools)


def test_the_result_depends_on_neither_the_writers_nor_repeated_commits(tmp_path):
    everything = [t for group in sample() for t in group]
    results = []
    for trial in range(3):
        random.Random(trial).shuffle(everything)
        split = 1 + 2 * trial
        source = stored(tmp_path / f"t{trial}", everything[:split], everything[split:], everything[:trial])
        target = Store(str(tmp_path / f"c{trial}"))
        curate(source, target, RECIPE)
        results.append({name: target.read(name) for name in FILES})
    assert results[0] == results[1] == results[2]


def test_a_table_is_read_where_there_are_no_segments(tmp_path):
    kept, dropped = sample()
    source = Store(str(tmp_path / "t"))
    source.write_table("trajectories.parquet", trajectories_table([*kept, *dropped]))
    first = curate(source, Store(str(tmp_path / "c")), RECIPE)
    assert first.total.kept == 4
    again = curate(Store(str(tmp_path / "c")), Store(str(tmp_path / "again")), RECIPE)
    assert (again.total.collected, again.total.kept) == (4, 4)


def test_rules_can_be_switched_off_but_not_misspelt(tmp_path):
    kept, dropped = sample()
    source, target = stored(tmp_path / "t", kept, dropped), Store(str(tmp_path / "c"))
    everything = curate(source, target, validate_recipe({"curation": {"rules": []}}))
    assert (everything.total.kept, everything.total.dropped) == (8, {})
    assert curate(source, target, with_rules("duplicate")).total.dropped == {"duplicate": 1}
    assert curate(source, target, with_rules("repetition")).total.dropped == {"repetition": 1}
    with pytest.raises(ConfigurationError, match="did you mean 'reward'"):
        curate(source, target, validate_recipe({"curation": {"rules": ["rewards"]}}))


def test_nothing_stored_damaged_segments_and_test_tasks_are_refused(tmp_path):
    target = Store(str(tmp_path / "c"))
    with pytest.raises(DataError, match=r"no trajectories are stored.*agenttuning generate"):
        curate(Store(str(tmp_path / "none")), target, RECIPE)
    damaged = stored(tmp_path / "d", [trajectory()])
    damaged.write("segments/x-000000.jsonl", b"{broken\n" + trajectory().model_dump_json().encode() + b"\n")
    with pytest.raises(DataError, match=r"segments/x-000000\.jsonl, line 1"):
        curate(damaged, target, RECIPE)
    with pytest.raises(DataError, match="split 'test'"):
        curate(stored(tmp_path / "e", [trajectory(split="test")]), target, RECIPE)
    assert target.list() == []


def test_nothing_kept_is_a_report_not_a_crash(tmp_path):
    source, target = stored(tmp_path / "t", [trajectory(reward=0.0)]), Store(str(tmp_path / "c"))
    report = curate(source, target, RECIPE)
    assert (report.total.kept, report.total.ratio, report.total.mean_turns) == (0, 0.0, 0.0)
    assert target.read("agentinstruct.jsonl") == b""


def test_a_demos_worth_takes_well_under_a_few_seconds(tmp_path):
    long = [trajectory(steps(*((f"c{i} {n}", "x" * 200) for i in range(8))), number=n) for n in range(300)]
    source = stored(tmp_path / "t", *([t] for t in long))
    started = time.monotonic()
    assert curate(source, Store(str(tmp_path / "c")), RECIPE).total.kept == 300
    assert time.monotonic() - started < 5


def test_a_store_that_is_no_local_directory_gets_the_same_files(tmp_path, monkeypatch):
    kept, dropped = sample()
    source = stored(tmp_path / "t", kept, dropped)
    here, there = Store(str(tmp_path / "here")), Store(str(tmp_path / "there"))
    curate(source, here, RECIPE)
    (tmp_path / "there" / "work").mkdir(parents=True)
    monkeypatch.setattr(Store, "local_path", lambda self: None)
    curate(source, there, RECIPE)
    assert {n: here.read(n) for n in FILES} == {n: there.read(n) for n in there.list()}


@pytest.mark.ray
def test_ray_data_gives_the_same_files_and_the_same_errors(tmp_path, monkeypatch):
    import ray

    kept, dropped = sample()
    source = stored(tmp_path / "t", kept[:1], kept[1:], dropped, kept[:2])
    here, there = Store(str(tmp_path / "here")), Store(str(tmp_path / "there"))
    curate(source, here, RECIPE)
    monkeypatch.setattr(run, "RAY_UNITS", 1)
    monkeypatch.setattr(run, "RUN_UNITS", 1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=300 * 2**20)
    try:
        calls = []
        report = curate(source, there, RECIPE, lambda done, total: calls.append((done, total)))
        assert report.total.kept == 4
        assert {n: here.read(n) for n in FILES} == {n: there.read(n) for n in FILES}
        assert sorted(calls) == [(n, 4) for n in range(1, 5)]
        source.write("segments/x-000000.jsonl", b"{broken\n\n")
        with pytest.raises(DataError, match=r"x-000000\.jsonl, line 1"):
            curate(source, there, RECIPE)
        other = stored(tmp_path / "o", [trajectory(opening=OPENING, environment="kg")])
        with pytest.raises(ConfigurationError, match=r"environments\.kg"):
            curate(other, there, RECIPE)
    finally:
        ray.shutdown()
