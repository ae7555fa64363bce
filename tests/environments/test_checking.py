"""`environment check` passes the page's example and names what is wrong with broken ones."""

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_own_environment import PAGE, example

from agenttuning.cli import main
from agenttuning.environments.base import Environment, EnvironmentSettings, Expert, Grade, Move, Parsed, Step
from agenttuning.environments.checking import Check, check_class, check_environment, resources
from agenttuning.environments.checking.episodes import _common, _stands_in, _texts
from agenttuning.environments.checking.run import CHECKS
from agenttuning.environments.checking.verdict import Broken
from agenttuning.environments.checking.watch import alive, watched
from agenttuning.errors import ConfigurationError, MalformedReply
from agenttuning.trajectory import Action, Task, Turn

Guess = example()
SEEN: list[int] = []


def found(cls: type[Environment], count: int = 8) -> list[Check]:
    return list(check_class(cls, "guess", EnvironmentSettings(), count=count))


def test_the_pages_example_passes_every_check() -> None:
    checks = found(Guess)
    assert "\n".join(str(check) for check in checks if not check.ok) == ""
    assert [check.name for check in checks] == [name for name, _, _ in CHECKS]
    assert "wins 100% of 8" in next(check.value for check in checks if check.name == "expert")


def test_the_page_shows_what_a_broken_one_is_told() -> None:
    unending = example(without='        if guess == self.number:\n            return Step("Right.", done=True)\n')
    failed = [check for check in found(unending, count=20) if not check.ok]
    assert [check.name for check in failed] == ["expert"]
    assert f"```\n{failed[0]}\n```" in PAGE.read_text()


class NoName(Guess):
    name = "other"


class NoGrade(Guess):
    def grade(self, task: Task, evidence: dict) -> Grade:
        return Grade(1.0, 1.0)


class Unfinished(Environment):
    name = "guess"


class NoTasks(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        return iter(())


class Tuples(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        for task in super().tasks(split, count, seed):
            yield task.model_copy(update={"payload": {**task.payload, "pair": (1, 2)}})


class Endless(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        return super().tasks(split, count + 1, seed)


class Unseeded(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        return super().tasks(split, count, random.randrange(10**9))


class SharedTasks(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        for task in super().tasks("train", count, seed):
            yield task.model_copy(update={"split": split})


class SharedTable(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        rng = random.Random(7)
        table = [rng.random() for _ in range(60)]
        for task in super().tasks(split, count, seed):
            yield task.model_copy(update={"payload": {**task.payload, "tables": [table, task.payload]}})


class SharedSentences(Guess):
    """Says the same in all splits, of numbers that differ."""

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        for number, task in enumerate(super().tasks(split, count, seed)):
            yield task.model_copy(update={"instruction": f"Find number {number}."})


class SharedGoals(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        for task in super().tasks(split, count, seed):
            yield task.model_copy(update={"payload": {**task.payload, "goal": {"find": 1}}})


class OtherWorlds(SharedSentences):
    """Says the same in all splits, of worlds that differ."""

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        for task in super().tasks(split, count, seed):
            rng = random.Random(f"{split}/{task.id}")
            yield task.model_copy(update={"payload": {**task.payload, "scene": [rng.random() for _ in range(60)]}})


class Raises(Guess):
    def step(self, action: Action) -> Step:
        raise KeyError("gone")


class Torn(Guess):
    def reset(self, task: Task) -> str:
        return json.loads("{")


class Silent(Guess):
    def reset(self, task: Task) -> str:
        super().reset(task)
        return "Begin."


class Trained(Guess):
    def demonstration(self) -> tuple[Turn, ...]:
        return (Turn(role="assistant", content="Guess: 3", loss=True),)


class Loses(Guess):
    def expert(self, task: Task, rng: random.Random) -> Expert:
        while True:
            yield Move("I try this.", Action(name="guess", arguments={"n": task.payload["low"]}))


class Thoughtless(Guess):
    def expert(self, task: Task, rng: random.Random) -> Expert:
        yield Move("", Action(name="guess", arguments={"n": task.payload["number"]}))


class GivenAway(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        for task in super().tasks(split, count, seed):
            number = task.payload["number"]
            yield task.model_copy(update={"instruction": f"{task.instruction} It is not far from {number}."})

    def expert(self, task: Task, rng: random.Random) -> Expert:
        yield Move("I try this.", Action(name="guess", arguments={"n": task.payload["number"]}))


class KnowsAll(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        for task in super().tasks(split, count, seed):
            yield task.model_copy(update={"payload": {**task.payload, "room": f"room-{task.payload['number']}"}})

    def expert(self, task: Task, rng: random.Random) -> Expert:
        move = Action(name="guess", arguments={"n": task.payload["number"]})
        yield Move(f"It must be in {task.payload['room']}.", move)


class GenerousGrade(Guess):
    @classmethod
    def grade(cls, task: Task, evidence: dict) -> Grade:
        reward = 1.0 if task.payload["number"] in evidence["guesses"] else 0.1
        return Grade(reward, reward)


class NoJson(Guess):
    def close(self) -> dict:
        return {"guesses": set(self.guesses)}


class Doubtful(Guess):
    @classmethod
    def grade(cls, task: Task, evidence: dict) -> Grade:
        good = 2.0 if task.payload["number"] in evidence["guesses"] else 0.0
        return Grade(good, good)


class LosesThought(Guess):
    def parse(self, reply: str) -> Parsed:
        return Parsed(None, super().parse(reply).action)


class Curt(Guess):
    def parse(self, reply: str) -> Parsed:
        try:
            return super().parse(reply)
        except MalformedReply:
            raise MalformedReply("No.") from None


class Crashes(Guess):
    def parse(self, reply: str) -> Parsed:
        return super().parse(reply) if "Guess" in reply else Parsed(None, Action(name=reply.split()[0]))


class Clock(Guess):
    def step(self, action: Action) -> Step:
        step = super().step(action)
        return step if step.done else Step(f"{step.observation} {time.perf_counter_ns()}")

    def expert(self, task: Task, rng: random.Random) -> Expert:
        yield Move("I try this.", Action(name="guess", arguments={"n": task.payload["low"]}))
        yield Move("I try that.", Action(name="guess", arguments={"n": task.payload["number"]}))


class Remembers(Guess):
    def reset(self, task: Task) -> str:
        kept = self.guesses
        shown = super().reset(task)
        self.guesses = kept
        return shown


class Shared(Guess):
    def reset(self, task: Task) -> str:
        SEEN[:] = [task.payload["number"]]
        return super().reset(task)

    def step(self, action: Action) -> Step:
        self.number = SEEN[0]
        return super().step(action)


class LeavesThreads(Guess):
    def __init__(self, settings: EnvironmentSettings, data_root: str | None = None) -> None:
        super().__init__(settings, data_root)
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()


class Slow(Guess):
    def expert(self, task: Task, rng: random.Random) -> Expert:
        yield Move("I try this.", Action(name="guess", arguments={"n": task.payload["number"]}))

    def step(self, action: Action) -> Step:
        time.sleep(0.005)
        return super().step(action)


class Heavy(Guess):
    def __init__(self, settings: EnvironmentSettings, data_root: str | None = None) -> None:
        super().__init__(settings, data_root)
        self.ballast = b"x" * (100 << 20)


class HangsInStep(Guess):
    def step(self, action: Action) -> Step:
        threading.Event().wait()
        return super().step(action)


class HangsInTasks(Guess):
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        yield from super().tasks(split, 1, seed)
        while True:
            pass


class HangsInParse(Guess):
    def parse(self, reply: str) -> Parsed:
        # Holds the interpreter: no thread of this process could interrupt it.
        re.match(r"(x+x+)+y", "x" * 60)
        return super().parse(reply)


class HangsInExpert(Guess):
    def expert(self, task: Task, rng: random.Random) -> Expert:
        yield Move("I wait.", Action(name="guess", arguments={"n": 1}))
        while True:
            time.sleep(1)


class HangsInShutdown(Guess):
    def shutdown(self) -> None:
        threading.Event().wait()


class Ends(Guess):
    def step(self, action: Action) -> Step:
        os._exit(7)


class Killed(Guess):
    def reset(self, task: Task) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(task)


@pytest.mark.parametrize(
    ("cls", "check", "value"),
    [
        (HangsInStep, "episodes", "hung in step for 0.5 s at test_checking.py:"),
        (HangsInTasks, "tasks", "hung in tasks for 0.5 s at test_checking.py:"),
        (HangsInParse, "episodes", "hung in parse for 0.5 s at test_checking.py:"),
        (HangsInExpert, "episodes", "hung in expert for 0.5 s at test_checking.py:"),
        (HangsInShutdown, "tasks", "hung in shutdown for 0.5 s at test_checking.py:"),
        (Ends, "episodes", "the process ended with exit status 7"),
        (Killed, "episodes", "the process ended by signal 9"),
    ],
)
def test_what_hangs_or_ends_the_process_is_named_and_the_rest_is_skipped(cls, check, value) -> None:
    started = time.monotonic()
    checks = list(check_class(cls, "guess", EnvironmentSettings(), count=2, limit_s=0.5))
    assert time.monotonic() - started < 10
    assert [found.name for found in checks] == [name for name, _, _ in CHECKS]
    (failed,) = [found for found in checks if found.state == "failed"]
    assert failed.name == check
    assert failed.value.startswith(value)
    assert failed.cure
    after = checks[checks.index(failed) + 1 :]
    assert all(found.state == "skipped" and f"mend {check!r} first" in found.value for found in after)


def test_what_a_hanging_environment_started_ends_with_its_check(tmp_path) -> None:
    class Starts(HangsInStep):
        def reset(self, task: Task) -> str:
            (tmp_path / "pid").write_text(str(subprocess.Popen(["sleep", "60"]).pid))
            return super().reset(task)

    list(check_class(Starts, "guess", EnvironmentSettings(), count=2, limit_s=0.5))
    deadline = time.monotonic() + 5
    while runs(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_it_forked_does_not_hide_that_the_process_is_over() -> None:
    def run() -> Iterator[Check]:
        yield Check("before", "ok", "sent")
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        os._exit(3)

    started, found = time.monotonic(), list[str]()
    with pytest.raises(Broken, match="ended with exit status 3"):
        found.extend(check.value for check in watched(run, 60.0))
    assert time.monotonic() - started < 10
    assert found == ["sent"]


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_what_is_slow_but_goes_on_is_not_taken_for_what_hangs() -> None:
    def run() -> Iterator[Check]:
        for _ in range(5):
            alive()
            time.sleep(0.3)
        yield Check("slow", "ok", "in parts")

    assert [check.value for check in watched(run, 1.0)] == ["in parts"]


@pytest.mark.parametrize(
    ("cls", "check", "value", "cure"),
    [
        (NoName, "contract", "name is 'other'", "set name = 'guess'"),
        (NoGrade, "contract", "grade is", "classmethod"),
        (Unfinished, "contract", "not implemented: close, ", "implement"),
        (NoTasks, "tasks", "yields none", "no data root"),
        (Tuples, "tasks", "changes as JSON", "no tuples"),
        (Endless, "tasks", "asked for 3, got 4", "at most `count`"),
        (Unseeded, "same seed, same tasks", "other train tasks", "random.Random(seed)"),
        (SharedTasks, "splits are apart", "the same task", "split by source"),
        (SharedTable, "splits are apart", "the same payload item 'tables'", "split by source"),
        (SharedSentences, "splits are apart", "the same instruction", "split by source"),
        (SharedGoals, "splits are apart", "share 1: the same goal", "split by source"),
        (Raises, "episodes", "KeyError at test_checking.py", "step must not raise"),
        (Torn, "episodes", "JSONDecodeError at test_checking.py", "reset must not raise"),
        (Silent, "opening", "reset() shows 'Begin.'", "contain the instruction"),
        (Trained, "opening", "would be trained", "loss=False"),
        (Loses, "expert", "wins 0% of 3 tasks; lost: guess_", "mend it"),
        (Thoughtless, "expert", "no thought", "say why"),
        (GivenAway, "answer is hidden", "which its instruction says", "without the answer"),
        (KnowsAll, "thoughts are honest", "'room-", "observations so far"),
        (GenerousGrade, "doing nothing", "3 of 3 tasks reward it, with 0.1", "no answer as wrong"),
        (NoJson, "evidence and grade", "no JSON", "bool, None"),
        (Doubtful, "evidence and grade", "Grade(reward=2.0", "from 0 to 1"),
        (LosesThought, "reply round trip", "parse(format(...)) gives", "must give back"),
        (Curt, "malformed replies", "is answered with 'No.'", "expected form"),
        (Crashes, "malformed replies", "IndexError at test_checking.py", "parse must not raise"),
        (Clock, "same actions, same episode", "observation 1", "no clock"),
        (Remembers, "episodes are apart", "evidence", "anew in reset()"),
        (Shared, "instances are apart", "observation", "in self"),
        (LeavesThreads, "nothing left behind", "threads", "shutdown()"),
        (Slow, "speed", "steps/s", "load once"),
        (Heavy, "memory", "MB for another instance", "Needs(memory_mb="),
    ],
)
def test_what_is_broken_is_named_with_rule_and_cure(cls, check, value, cure, monkeypatch) -> None:
    if cls is Slow:
        monkeypatch.setattr(resources, "SLOWEST_STEPS", 1000.0)
    failed = {c.name: c for c in found(cls, count=3) if c.state == "failed"}
    assert check in failed, failed
    assert value in failed[check].value
    assert cure in failed[check].cure
    lines = str(failed[check]).splitlines()
    assert "FAILED" in lines[0]
    assert lines[1].strip() == f"rule: {failed[check].rule}"
    assert lines[2].strip() == f"cure: {failed[check].cure}"


def test_what_counts_as_success_may_be_less_than_all() -> None:
    class Partly(Guess):
        @classmethod
        def grade(cls, task: Task, evidence: dict) -> Grade:
            return Grade(0.7 * super().grade(task, evidence).reward, 0.0)

    for reward, state in ((1.0, "failed"), (0.66, "ok")):
        checks = list(check_class(Partly, "guess", EnvironmentSettings(), count=3, reward=reward))
        assert [check.name for check in checks if not check.ok] == (["expert"] if state == "failed" else [])


def test_what_is_said_of_other_worlds_is_told_and_allowed() -> None:
    splits = next(check for check in found(OtherWorlds) if check.name == "splits are apart")
    assert splits.ok
    assert "8 goals are asked in two, of other worlds" in splits.value


def test_an_unsteady_environment_is_not_blamed_for_leaks() -> None:
    checks = found(Clock, count=3)
    assert [check.name for check in checks if check.state == "failed"] == ["same actions, same episode"]
    after = checks[[check.name for check in checks].index("same actions, same episode") + 1 :]
    assert {check.state for check in after} == {"skipped"}


def test_what_could_only_say_the_same_again_is_skipped() -> None:
    checks = found(Unfinished)
    assert [check.state for check in checks] == ["failed", *["skipped"] * (len(CHECKS) - 1)]
    assert "mend 'contract' first" in checks[-1].value


def test_one_without_an_expert_is_examined_by_its_worked_example() -> None:
    class Watched(Guess):
        def demonstration(self) -> tuple[Turn, ...]:
            return (Turn(role="user", content="Go."), Turn(role="assistant", content="Mid.\nGuess: 50", loss=False))

        expert = Environment.expert

    checks = {check.name: check for check in found(Watched)}
    assert all(check.ok for check in checks.values())
    assert checks["expert"].value.startswith("none: its tasks need policy.kind=endpoint")


def test_registered_environments_pass_and_unknown_ones_are_refused() -> None:
    checks = list(check_environment("db", count=4))
    assert "\n".join(str(check) for check in checks if not check.ok) == ""
    with pytest.raises(ConfigurationError, match=r"'nosuch' is not registered; known: .*db"):
        check_environment("nosuch")
    with pytest.raises(ConfigurationError, match=r"environments\.db\.settings\.colour"):
        check_environment("db", settings={"colour": 1})


def run_verb(*words: str) -> object:
    with pytest.raises(SystemExit) as left:
        main(["environment", "check", *words])
    return left.value.code


def test_the_verb_prints_a_line_a_check(capsys) -> None:
    assert run_verb("db", "--tasks", "2") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CHECKS)


def test_the_verb_exits_with_1_where_a_check_fails_and_takes_the_recipes_settings(capsys) -> None:
    assert run_verb("db", "environments.db.settings.source=geoquery") == 1
    said = capsys.readouterr().out
    assert "source 'geoquery' needs data.root" in said
    assert "not examined: mend 'tasks' first" in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_texts_of_a_payload_are_found_however_deep(value) -> None:
    assert _texts({"a": [value]}) == _texts(value)


@given(st.text(alphabet="abc", min_size=1, max_size=4))
def test_a_text_stands_in_another_as_whole_words(text) -> None:
    assert _stands_in(text, f"It is {text.upper()}, they say.")
    assert not _stands_in(text, f"It is x{text}x.")


def test_what_two_tasks_share_is_common() -> None:
    assert _common([{"a", "b"}, {"a"}, {"c"}], 1) == {"a"}
    assert _common([{"a"}, {"a"}, {"c"}], 2) == set()
