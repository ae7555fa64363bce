"""The verb's work: proposals of an endpoint become tasks that a run plays, and an environment's tasks are proven."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import fake_endpoint

from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.sandbox import sandbox_problem
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.instructions.command import propose, prove
from agenttuning.instructions.self_instruct import Plan
from agenttuning.instructions.shell_proposals import EXAMPLES
from agenttuning.recipe import EnvironmentSpec, PolicySpec, Recipe
from agenttuning.storage.store import Store
from agenttuning.trajectory import Task

PROBLEM = sandbox_problem()
needs_box = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


def recipe(**more: Any) -> Recipe:
    names = ("os", "db", "alfworld")
    return Recipe(environments={name: EnvironmentSpec() for name in names}, **more)


@needs_box
def test_what_is_proposed_can_be_played(tmp_path: Path) -> None:
    def script(body: dict[str, Any], _: int) -> str:
        text = body["messages"][-1]["content"]
        if "JSON list" in text:
            return json.dumps(list(EXAMPLES[:2]))
        task = next(example for example in EXAMPLES if example["instruction"] in text)
        return f"```bash\n{task['reference']}\n```"

    with fake_endpoint(script) as fake:
        policy = PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model", patience_s=5)
        made = propose(recipe(policy=policy), "os", Store(str(tmp_path)), Plan(count=2, parallel=1))
    assert made.complete, made.counts
    settings = {"source": "file", "tasks_file": str(tmp_path / "instructions" / "os" / "tasks.jsonl")}
    with OperatingSystem(OperatingSystemSettings(**settings)) as env:
        tasks = list(env.tasks("train", 10, 0))
        assert {task.instruction for task in tasks} == {example["instruction"] for example in EXAMPLES[:2]}
        assert list(env.tasks("test", 10, 0)) == []
    own = recipe().model_copy(update={"environments": {"os": EnvironmentSpec(settings=settings)}})
    report = prove(own, "os", Store(str(tmp_path)), "train", 10)
    assert report == {"counts": {"self-instructed/self-instructed": {"kept": 2}}, "dropped": []}
    proven = (tmp_path / "instructions" / "os" / "proven.jsonl").read_text().splitlines()
    assert sorted(Task.model_validate_json(line).id for line in proven) == sorted(
        task.model_copy(update={"difficulty": 1 / 7}).id for task in tasks
    )


@pytest.mark.parametrize("name", [pytest.param("os", marks=needs_box), "db", "alfworld"])
def test_an_environments_own_tasks_are_proven(name: str, tmp_path: Path) -> None:
    report = prove(recipe(), name, Store(str(tmp_path)), "train", 4)
    assert sum(counter.get("kept", 0) for counter in report["counts"].values()) == 4, report
    lines = (tmp_path / "instructions" / name / "proven.jsonl").read_text().splitlines()
    assert all(0.0 <= (Task.model_validate_json(line).difficulty or 0.0) <= 1.0 for line in lines)
    assert json.loads((tmp_path / "instructions" / name / "validation.json").read_text()) == report


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    endpoint = PolicySpec(kind="endpoint", base_url="http://127.0.0.1:1/v1", model="m")
    with pytest.raises(ConfigurationError, match=r"policy\.kind=endpoint"):
        propose(recipe(), "os", store, Plan(count=1))
    with pytest.raises(ConfigurationError, match="takes no proposals"):
        propose(recipe(policy=endpoint), "alfworld", store, Plan(count=1))
    with pytest.raises(ConfigurationError, match="is not in the recipe"):
        prove(recipe(), "webshop", store, "train", 1)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("{", "line 1 is no task"), ('{"environment": "db", "split": "train", "instruction": "x"}', "a task of 'db'")],
)
def test_a_file_of_other_tasks_is_refused(line: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(line + "\n")
    env = OperatingSystem(OperatingSystemSettings(source="file", tasks_file=str(tmp_path / "tasks.jsonl")))
    with pytest.raises(DataError, match=complaint):
        next(env.tasks("train", 1, 0))
    with pytest.raises(ConfigurationError, match="tasks_file"):
        next(OperatingSystem(OperatingSystemSettings(source="file")).tasks("train", 1, 0))
