"""Published records of all layouts become tasks; the reference comes from a fresh box, and its expert follows it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.operating_system.published import published_records, split_together
from agenttuning.environments.operating_system.verdicts import dropped_records
from agenttuning.environments.sandbox import sandbox_problem
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Action, Task, Turn

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
PROBLEM = sandbox_problem()
needs_box = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
needs_data = pytest.mark.skipif(not (PUBLISHED / "os").is_dir(), reason="no published data in ../shared/data")


BOX = "mkdir -p ~/box\ntouch ~/box/a ~/box/b\ncd ~/box"


def record(description: str, example: str, rule: str = "integer-match", init: str | None = None) -> dict[str, Any]:
    check = [None, {"language": "python", "file": f"check/{rule}.py"}]
    return {
        "description": description,
        "create": {"init": init or BOX},
        "evaluation": {"check": check, "example": example},
    }


def published(root: Path | str | None, source: Any = "agentbench", **settings: Any) -> OperatingSystem:
    return OperatingSystem(OperatingSystemSettings(source=source, **settings), None if root is None else str(root))


def save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    records = [
        record(f"How many files are in ~/box? ({n})", f"ls ~/box | wc -l # {n}", init=f"{BOX}\n: {n}")
        for n in range(40)
    ]
    save(tmp_path / "os" / "train_1000.json", records)
    return tmp_path


def answer(env: OperatingSystem, task: Task, script: str, text: str | None) -> float:
    env.reset(task)
    env.step(Action(name="bash", arguments={"script": script}))
    env.step(Action(name="finish") if text is None else Action(name="answer", arguments={"answer": text}))
    return env.grade(task, env.close()).reward


def follow(env: OperatingSystem, task: Task, seed: int) -> tuple[float, list[Turn], list[str]]:
    """Play the expert through the text of its replies; return reward, agent turns and what was shown before each."""
    shown = env.description(task) + "\n" + env.reset(task)
    expert, turns, before = env.expert(task, random.Random(seed)), list[Turn](), list[str]()
    move = next(expert)
    for _ in range(env.max_steps):
        reply = env.format(move.thought, move.action)
        parsed = env.parse(reply)
        assert (parsed.thought, parsed.action) == (move.thought, move.action)
        turns.append(Turn(role="assistant", content=reply, thought=move.thought, action=move.action, loss=move.loss))
        before.append(shown)
        step = env.step(parsed.action)
        shown += f"\n{reply}\n{step.observation}"
        if step.done:
            break
        move = expert.send(step)
    return env.grade(task, env.close()).reward, turns, before


def test_train_and_test_share_no_task(root: Path) -> None:
    env = published(root)
    train, test = ({task.instruction for task in env.tasks(split, 1000, 0)} for split in ("train", "test"))
    assert len(train) + len(test) == 40
    assert train
    assert test
    assert not train & test
    assert list(env.tasks("train", 5, 1)) == list(env.tasks("train", 5, 1))


def test_records_that_share_anything_go_to_one_side() -> None:
    def payload(setup: str, reference: str) -> dict[str, Any]:
        return {"setup": setup, "reference": reference}

    records = []
    for n in range(60):
        records += [(f"a{n}", payload(f"make {n}", f"x{n}")), (f"b{n}", payload(f"make {n}", f"y{n}"))]
        records += [(f"c{n}", payload("# nothing", f"Y{n}")), (f"C{n} ", payload("", f"z{n}"))]
    splits = split_together(records)
    for n in range(60):
        assert len(set(splits[4 * n : 4 * n + 3])) == 1
    assert {"train", "test"} == set(splits)
    assert len({splits[4 * n] for n in range(60)}) == 2


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


STD = [
    {
        "description": "Which word?",
        "create": {"local": "default", "init": {"file": "init/word.sh"}},
        "evaluation": {"match": "heron"},
    },
    {"description": "A number?", "evaluation": {"match": {"regex": "^[0-9]+$"}}},
    {
        "description": "Make ~/done hold yes.",
        "create": {
            "init": [{"code": "mkdir -p /srv/x"}, {"language": "python", "code": "open('/srv/x/p', 'w').write('p')"}]
        },
        "evaluation": {"check": {"file": "check/done.sh"}, "example": {"code": "echo yes > ~/done"}},
    },
    {
        "description": "Count twice: once in ~/n, once as answer.",
        "create": {"init": "touch /srv/1 /srv/2 /srv/3"},
        "evaluation": {
            "check": [None, {"code": 'test "$1" = "$(cat ~/n)" && test $1 -eq $2'}],
            "example": "ls /srv | wc -l",
        },
    },
    {"description": "Part?", "evaluation": {"check": [None, {"file": "check/containing.py"}], "example": "echo wolf"}},
]


@pytest.fixture
def std(tmp_path: Path) -> Path:
    base = tmp_path / "os_interaction"
    save(base / "data" / "3" / "a.json", STD)
    # A text may hold what `splitlines` takes for an end of line.
    another = STD[1] | {"description": "An\u2028other?"}
    save(base / "data" / "7" / "b.jsonl", json.dumps(another, ensure_ascii=False))
    save(base / "scripts" / "3" / "init" / "word.sh", "echo heron > /srv/word")
    save(base / "scripts" / "3" / "check" / "done.sh", 'test "$(cat ~/done)" = yes')
    return tmp_path


@needs_box
def test_the_std_layout_is_read_and_checked_as_its_records_say(std: Path) -> None:
    with published(std, "agentbench_std") as env:
        tasks = {task.instruction: task for task in env.tasks("test", 100, 0)}
        assert len(tasks) == 6
        word, number, done = tasks["Which word?"], tasks["A number?"], tasks["Make ~/done hold yes."]
        twice, part = tasks["Count twice: once in ~/n, once as answer."], tasks["Part?"]
        assert answer(env, word, "test $(cat /srv/word) = heron", "heron") == 1.0
        assert answer(env, word, "true", "crane") == 0.0
        assert answer(env, number, "true", "17") == 1.0
        assert answer(env, number, "true", "seventeen") == 0.0
        assert answer(env, done, "test $(cat /srv/x/p) = p && echo yes > ~/done", None) == 1.0
        assert answer(env, done, "echo no > ~/done", None) == 0.0
        assert answer(env, twice, "echo 3 > ~/n", "3") == 1.0, env._evidence
        assert answer(env, twice, "echo 4 > ~/n", "3") == 0.0
        assert answer(env, twice, "echo 4 > ~/n; touch /srv/4", "4") == 0.0
        assert answer(env, part, "true", "a wolf, I think") == 1.0
        assert answer(env, part, "true", "a fox") == 0.0
        with pytest.raises(ConfigurationError, match="is for evaluation"):
            next(env.tasks("train", 1, 0))
        with pytest.raises(ConfigurationError, match="no reference to demonstrate"):
            env.expert(word, random.Random(0))


def test_a_record_that_names_a_missing_file_is_told_and_left_out(std: Path) -> None:
    (std / "os_interaction" / "scripts" / "3" / "check" / "done.sh").unlink()
    records = published_records(str(std), "agentbench_std")
    (bad,) = [entry for entry in records if entry.problem]
    assert bad.name == "os_interaction/data/3/a.json#2"
    assert "check/done.sh" in str(bad.problem)
    assert len(list(published(std, "agentbench_std").tasks("test", 100, 0))) == 5


@needs_box
def test_the_background_program_of_a_dev_record_runs_and_outlives_a_stopped_act(tmp_path: Path) -> None:
    start = "(while :; do echo tick >> /root/log; sleep 0.05; done) &"
    given = {"description": "Which file grows?", "create": {"local": "default"}, "start": start}
    save(tmp_path / "os_interaction" / "data" / "dev.json", [given | {"evaluation": {"match": "log"}}])
    count = "$(cat /root/log | wc -l)"
    grows = f"a={count}; until [ {count} -gt $a ]; do sleep 0.1; done; echo grows"
    with published(tmp_path, "agentbench_dev", command_timeout_s=3.0) as env:
        task = next(env.tasks("test", 1, 0))
        env.reset(task)
        for script, said in ((grows, "grows"), ("sleep 60", "stopped"), (grows, "grows")):
            assert said in env.step(Action(name="bash", arguments={"script": script})).observation
        env.step(Action(name="answer", arguments={"answer": "log"}))
        assert env.grade(task, env.close()).reward == 1.0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "does not exist"), ("[{", "not readable as JSON"), ('[{"description": "x"}]', "AgentBench records")],
)
def test_unusable_data_is_named(tmp_path: Path, content: str | None, complaint: str) -> None:
    if content is not None:
        save(tmp_path / "os" / "train_1000.json", content)
    with pytest.raises(DataError, match=complaint):
        next(published(tmp_path).tasks("train", 1, 0))


def test_the_data_root_must_be_set() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.root"):
        next(published(None).tasks("train", 1, 0))


@pytest.mark.data
@needs_data
def test_bad_published_tasks_are_left_out_unless_asked_for() -> None:
    bad = dropped_records()
    records = published_records(str(PUBLISHED), "agentbench")
    assert len(records) == 1000
    assert all(entry.task for entry in records)
    every, good = (
        {task.id for split in ("train", "test") for task in published(PUBLISHED, validated=v).tasks(split, 2000, 0)}
        for v in (False, True)
    )
    assert len(every) == 1000
    assert every - good == {entry.task.id for entry in records if entry.task and entry.key in bad}
    assert 700 < len(good) < 1000


@needs_box
@pytest.mark.data
@needs_data
def test_the_expert_solves_validated_train_tasks_and_says_only_what_was_shown() -> None:
    rewards, recovered, thoughts = [], 0, set[str]()
    with published(PUBLISHED, mistake_rate=0.3) as env:
        for number, task in enumerate(env.tasks("train", 25, 0)):
            reward, turns, before = follow(env, task, number)
            rewards.append(reward)
            recovered += any(turn.loss is False for turn in turns)
            thoughts |= {turn.thought for turn in turns if turn.thought and turn.loss}
            for turn, shown in zip(turns, before, strict=True):
                names = [word.strip(".,:;`'\"?") for word in (turn.thought or "").split() if turn.loss]
                for name in names:
                    if "/" in name or any(sign.isdigit() for sign in name):
                        last = name.rstrip("/").rpartition("/")[2].removesuffix("...")
                        pieces = [piece for piece in last.replace("?", "*").split("*") if piece.strip("~.")]
                        assert all(piece in shown for piece in pieces), (turn.thought, name)
            assert len(turns) >= 2
    assert sum(rewards) >= 0.95 * len(rewards)
    assert recovered >= 2
    assert len(thoughts) > 40
