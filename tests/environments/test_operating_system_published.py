"""Published tasks: read from the data root, set up in a box, graded against the reference of a fresh box."""

import json
import random
from pathlib import Path

import pytest

from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.sandbox import sandbox_problem
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Action

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
PROBLEM = sandbox_problem()
needs_box = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


def record(description: str, example: str, rule: str = "integer-match") -> dict[str, object]:
    check = [None, {"language": "python", "file": f"check/{rule}.py"}]
    init = "mkdir -p ~/box\ntouch ~/box/a ~/box/b\ncd ~/box"
    return {"description": description, "create": {"init": init}, "evaluation": {"check": check, "example": example}}


def published(root: Path | str | None) -> OperatingSystem:
    return OperatingSystem(OperatingSystemSettings(source="agentbench"), None if root is None else str(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "os").mkdir()
    records = [record(f"How many files are in ~/box? ({n})", "ls ~/box | wc -l") for n in range(40)]
    (tmp_path / "os" / "train_1000.json").write_text(json.dumps(records))
    return tmp_path


def test_train_and_test_share_no_task(root: Path) -> None:
    env = published(root)
    train, test = ({task.instruction for task in env.tasks(split, 1000, 0)} for split in ("train", "test"))
    assert len(train) + len(test) == 40
    assert not train & test
    assert list(env.tasks("train", 5, 1)) == list(env.tasks("train", 5, 1))


@needs_box
def test_the_reference_comes_from_a_box_that_the_agent_never_sees(root: Path) -> None:
    with published(root) as env:
        task = next(env.tasks("train", 1, 0))
        env.reset(task)
        shown = env.step(Action(name="bash", arguments={"script": "pwd; touch ~/box/c; ls ~/box | wc -l"}))
        assert shown.observation == "The output of the OS:\n/root\n3"
        env.step(Action(name="answer", arguments={"answer": "3"}))
        evidence = env.close()
        assert evidence["reference"] == "2\n"
        assert env.grade(task, evidence).reward == 0.0
        assert env.grade(task, {**evidence, "answer": "2"}).reward == 1.0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "does not exist"), ("[{", "not readable as JSON"), ('[{"description": "x"}]', "AgentBench records")],
)
def test_unusable_data_is_named(tmp_path: Path, content: str | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / "os").mkdir()
        (tmp_path / "os" / "train_1000.json").write_text(content)
    with pytest.raises(DataError, match=complaint):
        next(published(tmp_path).tasks("train", 1, 0))


def test_the_data_root_must_be_set() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.root"):
        next(published(None).tasks("train", 1, 0))


@needs_box
@pytest.mark.data
@pytest.mark.skipif(not (PUBLISHED / "os").is_dir(), reason="no published data in ../shared/data")
def test_reference_commands_solve_the_published_tasks() -> None:
    rewards = []
    with published(PUBLISHED) as env:
        for task in env.tasks("train", 40, 0):
            env.reset(task)
            expert = env.expert(task, random.Random(0))
            move = next(expert)
            while not (step := env.step(move.action)).done:
                move = expert.send(step)
            rewards.append(env.grade(task, env.close()).reward)
    assert sum(rewards) >= 0.9 * len(rewards)
