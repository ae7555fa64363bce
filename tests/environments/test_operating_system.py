"""Tasks are disjoint and repeatable, the expert solves them, and nothing is solved by doing nothing."""

import random
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.operating_system.families import FAMILIES
from agenttuning.environments.operating_system.generator import generated_tasks
from agenttuning.environments.operating_system.shifted import SHIFTED
from agenttuning.environments.sandbox import sandbox_problem
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Action, Task, Turn, content_hash

PROBLEM = sandbox_problem()
needs_box = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


def environment(**settings: Any) -> OperatingSystem:
    return OperatingSystem(OperatingSystemSettings(**settings))


def bash(script: str) -> Action:
    return Action(name="bash", arguments={"script": script})


def play(env: OperatingSystem, task: Task, seed: int) -> tuple[float, list[Turn]]:
    """Play the expert through the text of its replies; return the reward and all turns."""
    turns = [Turn(role="user", content=env.reset(task))]
    expert = env.expert(task, random.Random(seed))
    move = next(expert)
    for _ in range(env.max_steps):
        reply = env.format(move.thought, move.action)
        parsed = env.parse(reply)
        assert (parsed.thought, parsed.action) == (move.thought, move.action)
        step = env.step(parsed.action)
        turns.append(Turn(role="assistant", content=reply, thought=move.thought, action=move.action, loss=move.loss))
        turns.append(Turn(role="user", content=step.observation))
        if step.done:
            break
        move = expert.send(step)
    return env.grade(task, env.close()).reward, turns


@pytest.mark.parametrize("split", ["train", "test", "shifted"])
def test_the_same_seed_gives_the_same_tasks(split: str) -> None:
    first, again = (list(generated_tasks(split, 40, 3)) for _ in range(2))
    assert first == again
    assert len({task.id for task in first}) == 40
    assert {task.split for task in first} == {split}
    assert list(generated_tasks(split, 40, 4)) != first
    assert list(generated_tasks(split, 10, 3)) == first[:10]


def test_splits_share_no_content_under_any_seeds() -> None:
    contents: dict[str, set[str]] = {}
    goals: dict[str, set[str]] = {}
    for split in ("train", "test", "shifted"):
        tasks = [task for seed in range(12) for task in generated_tasks(split, 100, seed)]
        contents[split] = {content_hash([task.instruction, task.payload["setup"]]) for task in tasks}
        goals[split] = {content_hash(task.payload["goal"]) for task in tasks}
        assert {task.family for task in tasks} == set(SHIFTED if split == "shifted" else FAMILIES)
    for left, right in combinations(("train", "test", "shifted"), 2):
        assert contents[left].isdisjoint(contents[right])
        assert goals[left].isdisjoint(goals[right])


def test_families_take_turns() -> None:
    counts = Counter(task.family for task in generated_tasks("train", 10 * len(FAMILIES), 0))
    assert set(counts.values()) == {10}
    assert len(FAMILIES) >= 8


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no split is called 'dev'; known: train, test, shifted"):
        next(environment().tasks("dev", 1, 0))


def test_it_is_registered_and_checks_its_settings() -> None:
    assert isinstance(make_environment("os"), OperatingSystem)
    with pytest.raises(ConfigurationError, match=r"environments\.os\.settings\.mistake_rate"):
        make_environment("os", {"mistake_rate": 2})


@needs_box
def test_the_expert_solves_train_tasks_in_time_and_a_third_needs_three_actions() -> None:
    with environment(mistake_rate=0.3) as env:
        played = [play(env, task, number) for number, task in enumerate(env.tasks("train", 60, 5))]
    rewards = [reward for reward, _ in played]
    assert sum(rewards) >= 0.95 * len(rewards)
    trained = [sum(bool(turn.loss) for turn in turns) for _, turns in played]
    assert sum(count >= 3 for count in trained) >= len(played) / 3
    mistakes = [turns for _, turns in played if any(turn.loss is False for turn in turns)]
    assert 0.15 * len(played) <= len(mistakes) <= 0.45 * len(played)
    recovered = [t for _, t in played if any("No such file" in u.content or "denied" in u.content for u in t)]
    assert len(recovered) > len(mistakes)  # also where the expert made none: a moved file, a script not executable


@needs_box
@pytest.mark.parametrize("split", ["test", "shifted"])
def test_the_expert_solves_unseen_tasks(split: str) -> None:
    with environment() as env:
        rewards = [play(env, task, number)[0] for number, task in enumerate(env.tasks(split, 24, 6))]
    assert sum(rewards) == len(rewards)


@needs_box
def test_thoughts_and_commands_hold_no_name_that_was_not_shown() -> None:
    """Every path, number and quoted word of a turn stands in an earlier turn (or differs from one by a letter)."""
    with environment(mistake_rate=0.0) as env:
        for number, task in enumerate(env.tasks("train", 24, 8)):
            _, turns = play(env, task, number)
            seen = env.description(task)
            for turn in turns:
                if turn.role == "assistant":
                    words = [w.strip(".,\"'") for w in turn.content.replace("=", " ").replace("(", " ").split()]
                    names = [w for w in words if w.startswith("/root/") or w.strip(")").isdigit()]
                    for name in names:
                        assert name.split("*")[0].rstrip("/)") in seen, (task.family, name)
                seen += turn.content


@needs_box
@pytest.mark.parametrize("split", ["train", "shifted"])
def test_doing_nothing_fails(split: str) -> None:
    with environment() as env:
        for task in env.tasks(split, 12, 9):
            env.reset(task)
            assert env.step(Action(name="finish")).done
            assert env.grade(task, env.close()).reward == 0.0
            env.reset(task)
            assert env.grade(task, env.close()).reward == 0.0


@needs_box
def test_observations() -> None:
    task = next(generated_tasks("train", 1, 0))
    with environment(command_timeout_s=0.5) as env:
        assert task.instruction in env.reset(task)
        assert env.step(bash("true")).observation == "The output of the OS is empty."
        assert env.step(bash("echo hi")).observation == "The output of the OS:\nhi"
        failed = env.step(bash("ls /nowhere"))
        assert failed.error
        assert not failed.done
        long = env.step(bash("seq 1000"))
        assert long.observation.endswith("\n[truncated because the output is too long]")
        assert len(long.observation) < 860
        assert long.note == {"truncated": True}
        slow = env.step(bash("sleep 60"))
        assert slow.error
        assert "longer than 0.5 seconds" in slow.observation
        assert slow.note == {"timed_out": True}
        assert "new one was started" in env.step(bash("exit")).observation
        env.step(bash("kill -KILL -1"))
        step = env.step(bash("sleep 0.4"))
        assert step.done
        assert "ended the operating system" in step.observation
        assert env.close() == env.close()


@needs_box
def test_nothing_of_an_episode_is_seen_in_the_next() -> None:
    first, second = generated_tasks("train", 2, 1)
    with environment() as env:
        env.reset(first)
        env.step(bash("echo x > /root/left; secret=1; cd /tmp"))
        env.reset(second)
        assert env.step(bash("pwd; echo [$secret]; cat /root/left")).observation.startswith(
            "The output of the OS:\n/root\n[]\ncat: /root/left"
        )
        assert env.close()["answer"] is None


@needs_box
def test_an_agent_cannot_forge_the_final_state() -> None:
    task = next(t for t in generated_tasks("train", 50, 2) if t.family == "make_note")
    path, note = next(iter(task.payload["expect"]["files"].items()))
    with environment() as env:
        env.reset(task)
        env.step(bash(f'cat() {{ echo "{note}"; }}; export -f cat; alias ls="echo {path}"'))
        env.step(Action(name="finish"))
        assert env.grade(task, env.close()).reward == 0.0
        env.reset(task)
        env.step(bash(f'echo "{note}" > /tmp/real; mkdir -p $(dirname {path}); ln -s /tmp/real {path}'))
        env.step(Action(name="finish"))
        assert env.grade(task, env.close()).reward == 0.0


def test_the_prompt_is_short_and_its_forms_are_read() -> None:
    env = environment()
    text = env.description(next(generated_tasks("train", 1, 0)))
    assert len(text) < 500
    demonstration = env.demonstration()
    assert [turn.role for turn in demonstration] == ["user", "assistant", "user", "assistant"]
    for turn in demonstration:
        if turn.role == "assistant":
            assert turn.loss is False
            assert env.parse(turn.content).action == turn.action
