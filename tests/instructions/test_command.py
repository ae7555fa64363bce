"""The verb's work: tasks by proposals and by derivation that a run plays, trajectories by derivation, and proofs."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Fault, fake_endpoint

from agenttuning import pipeline
from agenttuning.cli import main
from agenttuning.curation.run import curate
from agenttuning.environments.base import Environment, make_environment
from agenttuning.environments.database.environment import Database
from agenttuning.environments.sandbox import sandbox_problem
from agenttuning.errors import ConfigurationError, DataError, InfrastructureError
from agenttuning.instructions import shell_proposals, sql_proposals
from agenttuning.instructions.command import derive, propose, prove, rate
from agenttuning.instructions.self_instruct import Plan
from agenttuning.recipe import EnvironmentSpec, PolicySpec, Recipe, Run
from agenttuning.stages.common import done_key
from agenttuning.storage.segments import commit_segment, read_trajectories
from agenttuning.storage.store import Store
from agenttuning.trajectory import Outcome, Task, Trajectory

PROBLEM = sandbox_problem()
needs_box = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
EXAMPLES = {"os": shell_proposals.EXAMPLES, "db": sql_proposals.EXAMPLES}
OS_AND_DB = pytest.mark.parametrize("name", [pytest.param("os", marks=needs_box), "db"])


def recipe(**more: Any) -> Recipe:
    names = ("os", "db", "alfworld")
    return Recipe(environments={name: EnvironmentSpec() for name in names}, **more)


def playing(name: str, tasks: Path, **more: Any) -> Recipe:
    """A recipe that plays the tasks of a file."""
    settings = {"source": "file", "tasks_file": str(tasks), "mistake_rate": 0.0}
    return Recipe(environments={name: EnvironmentSpec(settings=settings)}, **more)


def endpoint(base_url: str) -> PolicySpec:
    return PolicySpec(kind="endpoint", base_url=base_url, model="toy-model", patience_s=5)


def won(env: Environment, tasks: Iterable[Task]) -> list[float]:
    """The expert's reward on each task, as `generate` plays it."""
    rewards = []
    for task in tasks:
        env.reset(task)
        expert = env.expert(task, random.Random(0))
        move = next(expert)
        while not (step := env.step(env.parse(env.format(move.thought, move.action)).action)).done:
            move = expert.send(step)
        rewards.append(env.grade(task, env.close()).reward)
    return rewards


@OS_AND_DB
def test_what_is_proposed_can_be_proven_and_played(name: str, tmp_path: Path) -> None:
    def script(body: dict[str, Any], _: int) -> str:
        text = body["messages"][-1]["content"]
        if "JSON list" in text:
            return json.dumps(list(EXAMPLES[name][:2]))
        task = next(example for example in EXAMPLES[name] if example["instruction"] in text)
        return f"```bash\n{task['reference']}\n```" if name == "os" else json.dumps({"sql": task["sql"]})

    with fake_endpoint(script) as fake:
        own = recipe(policy=endpoint(fake.base_url))
        made = propose(own, name, Store(str(tmp_path)), Plan(count=2, parallel=1))
    assert made.complete, made.counts
    own = playing(name, tmp_path / "instructions" / name / "tasks.jsonl")
    with make_environment(name, own.environments[name].settings) as env:
        tasks = list(env.tasks("train", 10, 0))
        assert {task.id for task in tasks} == {task.id for task in made.tasks}
        assert list(env.tasks("test", 10, 0)) == []
        assert won(env, tasks) == [1.0, 1.0]
    report = prove(own, name, Store(str(tmp_path)), "train", 10)
    assert report == {"counts": {"self-instructed/self-instructed": {"kept": 2}}, "dropped": []}
    proven = (tmp_path / "instructions" / name / "proven.jsonl").read_text().splitlines()
    read = [Task.model_validate_json(line) for line in proven]
    assert {task.id for task in read} == {task.id for task in tasks}
    assert all(task.difficulty is not None for task in read)


@OS_AND_DB
def test_questions_with_gold_programs_become_tasks_and_trajectories(name: str, tmp_path: Path) -> None:
    good = [dict(example) for example in EXAMPLES[name]]
    no_gold = {key: value for key, value in good[0].items() if key not in ("sql", "reference")}
    fails = {**good[1], "sql": "SELECT x FROM y", "reference": "cat /nowhere", "instruction": "Other words."}
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in [*good, good[0], no_gold, fails]))
    run = Store(str(tmp_path))
    told = derive(recipe(), name, run, 10, questions=str(file), tasks_only=True)
    assert told["counts"] == {"derived": 3}
    reasons = [item["reason"] for item in [*told["validation"]["refused"], *told["validation"]["dropped"]]]
    gold = {"os": ("missing_reference", "reference_fails"), "db": ("missing_sql", "sql_fails")}[name]
    assert sorted(reasons) == sorted(["repeated", *gold])
    own = playing(name, tmp_path / "instructions" / name / "derived.jsonl")
    with make_environment(name, own.environments[name].settings) as env:
        tasks = list(env.tasks("train", 10, 0))
        assert {task.origin for task in tasks} == {"derived"}
        assert won(env, tasks) == [1.0, 1.0, 1.0]
    with fake_endpoint(lambda body, n: "I take the next step.") as fake:
        own = recipe(policy=endpoint(fake.base_url))
        assert derive(own, name, run, 10, questions=str(file))["counts"] == {"derived": 3}
    stored = list(read_trajectories(run.child("imported", f"derived-{name}-questions")))
    assert {trajectory.task.id for trajectory in stored} == {task.id for task in tasks}


@OS_AND_DB
def test_the_questions_of_the_documentation_hold(name: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "instructions.md").read_text()
    field = {"os": '"setup"', "db": '"sql"'}[name]
    records = [line for line in text.splitlines() if line.startswith('{"instruction"') and field in line]
    (file := tmp_path / "questions.jsonl").write_text("\n".join(records))
    told = derive(recipe(), name, Store(str(tmp_path)), 10, questions=str(file), tasks_only=True)
    assert told["counts"] == {"derived": 1}, told


def test_the_command_line_derives_and_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES["db"]))
    run = ["instructions", "derive", "db", f"run.root={tmp_path}", "run.name=cli"]
    for arguments, status, told in (
        ([*run, "--from", str(tmp_path / "q.jsonl"), "--tasks-only"], 0, "{'derived': 3}"),
        (["instructions", "rate", *run[2:]], 3, "no trajectories of 'db'"),
        (["instructions", "prove", *run[2:], "--from", "x"], 2, "are for derive"),
        (["instructions", "guess", *run[2:]], 2, "must be one of propose, derive, prove, rate"),
        ([*run, "--from", str(tmp_path / "none.jsonl"), "--tasks-only"], 2, "instructions derive --from"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert (ended.value.code, told in said.out + said.err) == (status, True), said


def thoughts(trajectory: Trajectory) -> list[str | None]:
    return [turn.thought for turn in trajectory.turns if turn.loss]


def test_derived_trajectories_are_resumed_and_curated(tmp_path: Path) -> None:
    run, broken = Store(str(tmp_path)), {"after": 10}

    def script(body: dict[str, Any], number: int) -> Any:
        shown = body["messages"][-1]["content"]
        assert "Reply with the thought alone" in shown
        return Fault(500, "down") if number >= broken["after"] else f"I go on with step {len(body['messages']) // 2}."

    with fake_endpoint(script) as fake:
        own = recipe(policy=endpoint(fake.base_url).model_copy(update={"patience_s": 0.5}))
        with pytest.raises(InfrastructureError):
            derive(own, "db", run, 12)
        target = run.child("imported", "derived-db")
        before = {trajectory.id for trajectory in read_trajectories(target)}
        assert 0 < len(before) < 12
        with pytest.raises(ConfigurationError, match="not done"):
            done_key(target, "import")
        broken["after"] = 10_000
        assert derive(own, "db", run, 12)["counts"] == {"derived": 12}
        first, asked = done_key(target, "import"), len(fake.requests)
        assert derive(own, "db", run, 12)["counts"] == {"derived": 12}
        assert (len(fake.requests), done_key(target, "import")) == (asked, first)
        assert derive(own, "db", run, 14)["counts"] == {"derived": 14}
        assert done_key(target, "import") != first
    made = {trajectory.id: trajectory for trajectory in read_trajectories(target)}
    assert before < set(made)
    assert all(t.policy == "derived:toy-model" and t.reward == 1.0 for t in made.values())
    written = [thought for trajectory in made.values() for thought in thoughts(trajectory)]
    assert all(thought.startswith("I go on with step") for thought in written if thought)
    report = curate(target, run.child("curated"), recipe())
    assert (report.collected, report.total.tasks, report.kept > 10) == (14, 14, True), report.text()


def test_what_cannot_be_derived_is_told_by_its_reason_and_not_asked_again(tmp_path: Path) -> None:
    with fake_endpoint(lambda body, n: "It will be 123456789.") as fake:
        own = recipe(policy=endpoint(fake.base_url))
        assert derive(own, "db", Store(str(tmp_path)), 2)["counts"] == {"no_thought": 2}
        asked = len(fake.requests)
        assert derive(own, "db", Store(str(tmp_path)), 2)["counts"] == {"no_thought": 2}
        assert len(fake.requests) == asked


def test_tasks_are_rated_by_what_the_policy_solved(tmp_path: Path) -> None:
    run = Store(str(tmp_path))
    with make_environment("db") as env:
        tasks = list(env.tasks("train", 6, 0))
    for task, passes in zip(tasks, (0, 0, 1, 2, 4, 4), strict=True):
        for number in range(4):
            commit_segment(run.child("trajectories"), task.id, number, [attempt(task, number, float(number < passes))])
    rated = rate(recipe(), "db", run, 4)
    assert sorted(round(task.difficulty or 0, 2) for task in rated) == [0.1, 0.5, 0.7, 0.9]
    assert {tasks[2].id, tasks[3].id} < {task.id for task in rated} < {task.id for task in tasks}
    file = tmp_path / "instructions" / "db" / "rated.jsonl"
    with make_environment("db", {"source": "file", "tasks_file": str(file)}) as env:
        assert {task.difficulty for task in env.tasks("train", 10, 0)} == {task.difficulty for task in rated}
    with pytest.raises(DataError, match="no trajectories of 'os'"):
        rate(recipe(), "os", run, 4)


def attempt(task: Task, number: int, reward: float) -> Trajectory:
    return Trajectory(
        id=f"{task.id}-{number}", task=task, attempt=number, turns=(), reward=reward, score=reward,
        outcome=Outcome.COMPLETED, policy="p",
    )  # fmt: skip


@pytest.mark.ray
def test_proposed_database_tasks_are_played_by_generate(tmp_path: Path) -> None:
    """What is proposed and proven is played as a run plays its tasks, and curated."""
    with make_environment("db") as env:
        assert isinstance(env, Database)
        proposals = sql_proposals.SqlProposals(env)
        tasks = [proposals.task(dict(example)) for example in sql_proposals.EXAMPLES]
    (file := tmp_path / "tasks.jsonl").write_text("".join(task.model_dump_json() + "\n" for task in tasks))
    report = prove(playing("db", file), "db", Store(str(tmp_path / "d")), "train", 10)
    assert report["counts"] == {"self-instructed/self-instructed": {"kept": 3}}
    own = playing("db", tmp_path / "d" / "instructions" / "db" / "proven.jsonl")
    alone = {"db": own.environments["db"].model_copy(update={"test_tasks": 0, "shifted_tasks": 0})}
    own = own.model_copy(update={"environments": alone, "run": Run(name="d", root=str(tmp_path))})
    pipeline.run(own, ("generate", "curate"))
    kept = Store(str(tmp_path / "d" / "curated")).read_table("kept.parquet")
    assert set(kept.column("task").to_pylist()) == {task.id for task in tasks}


@pytest.mark.parametrize(
    ("name", "count"), [pytest.param("os", 4, marks=needs_box), ("db", 4), ("alfworld", 4), ("mind2web", 30)]
)
def test_an_environments_own_tasks_are_proven(name: str, count: int, tmp_path: Path) -> None:
    spec = EnvironmentSpec(settings={"mistake_rate": 1.0})
    report = prove(Recipe(environments={name: spec}), name, Store(str(tmp_path)), "train", count)
    assert sum(counter.get("kept", 0) for counter in report["counts"].values()) == count, report
    lines = (tmp_path / "instructions" / name / "proven.jsonl").read_text().splitlines()
    rated = [Task.model_validate_json(line).difficulty for line in lines]
    assert len(rated) == count
    assert all(difficulty is not None and 0.0 <= difficulty <= 1.0 for difficulty in rated)
    assert json.loads((tmp_path / "instructions" / name / "validation.json").read_text()) == report


def test_deliberate_mistakes_make_no_task_harder(tmp_path: Path) -> None:
    found = []
    for share in (0.0, 1.0):
        spec = EnvironmentSpec(settings={"mistake_rate": share})
        prove(Recipe(environments={"db": spec}), "db", Store(str(tmp_path)), "train", 12)
        found.append((tmp_path / "instructions" / "db" / "proven.jsonl").read_text())
    assert found[0] == found[1]


def test_an_edited_file_of_questions_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    file, run = tmp_path / "questions.jsonl", Store(str(tmp_path))
    records = [json.dumps(example) for example in EXAMPLES["db"]]
    file.write_text("\n".join(records[:2]))
    with fake_endpoint(lambda body, n: "I take the next step.") as fake:
        own = recipe(policy=endpoint(fake.base_url))
        assert derive(own, "db", run, 1, questions=str(file))["counts"] == {"derived": 1}
        assert derive(own, "db", run, 2, questions=str(file))["counts"] == {"derived": 2}
        lower = own.environments["db"].model_copy(update={"reward_threshold": 0.5})
        other = own.model_copy(update={"environments": {"db": lower}})
        with pytest.raises(ConfigurationError, match=r"reward_threshold: 1\.0 then, 0\.5 now"):
            derive(other, "db", run, 2, questions=str(file))
        file.write_text("\n".join(records[1:]))
        with pytest.raises(ConfigurationError, match=r"from\.records"):
            derive(own, "db", run, 2, questions=str(file))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    store, policy = Store(str(tmp_path)), endpoint("http://127.0.0.1:1/v1")
    with pytest.raises(ConfigurationError, match=r"policy\.kind=endpoint"):
        propose(recipe(), "os", store, Plan(count=1))
    with pytest.raises(ConfigurationError, match=r"derive needs policy\.kind=endpoint"):
        derive(recipe(), "db", store, 1)
    with pytest.raises(ConfigurationError, match="takes no proposals"):
        propose(recipe(policy=policy), "alfworld", store, Plan(count=1))
    with pytest.raises(ConfigurationError, match="instructions prove"):
        derive(recipe(), "db", store, 1, tasks_only=True)
    with pytest.raises(ConfigurationError, match="never learned from"):
        derive(recipe(policy=policy), "db", store, 1, split="test")
    with pytest.raises(ConfigurationError, match="is not in the recipe"):
        prove(recipe(), "webshop", store, "train", 1)
