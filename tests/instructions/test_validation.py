"""Every reason is found in the real box and the real database, and what is right is kept."""

from collections.abc import Iterator
from typing import Any

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.database.environment import Database
from agenttuning.environments.database.tables import Table
from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.sandbox import sandbox_problem
from agenttuning.instructions.shell_trials import ShellTrials
from agenttuning.instructions.sql_proposals import sql_task
from agenttuning.instructions.sql_trials import SqlTrials
from agenttuning.instructions.trials import ContractTrials
from agenttuning.instructions.validation import Reason, counts, stands_in, validate
from agenttuning.trajectory import Action, Task

PROBLEM = sandbox_problem()
needs_box = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
MAKE = "mkdir -p /srv/a\ntouch /srv/a/1 /srv/a/2 /srv/a/3"
COUNT = "ls /srv/a | wc -l"


@pytest.fixture(scope="module")
def trials() -> Iterator[ShellTrials]:
    with OperatingSystem(OperatingSystemSettings()) as environment:
        yield ShellTrials(environment)


def shell(instruction: str = "How many files are in /srv/a?", **payload: Any) -> Task:
    content = {"setup": MAKE, "reference": COUNT, "expect": {"rule": "integer-match"}, **payload}
    return Task(environment="os", split="train", instruction=instruction, payload=content, origin="derived")


@needs_box
@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (shell(), None),
        (shell(alternatives=["find /srv/a -type f | wc -l"]), None),
        (shell(setup="mkdir /srv/a; nosuchprogram; true"), Reason.SETUP_FAILS),
        (shell(setup="exit 3"), Reason.SETUP_FAILS),
        (shell(reference="ls /srv/a"), Reason.REFERENCE_FAILS),
        (shell(reference="echo $RANDOM$RANDOM"), Reason.REFERENCE_FAILS),
        (shell(reference="date +%N", expect={"rule": "regex-match", "answer": "."}), Reason.REFERENCE_UNSTABLE),
        # The answers agree, and what an agent sees on its way does not.
        (
            shell(setup=f"{MAKE}\necho $RANDOM$RANDOM > /srv/a/1", reference="cat /srv/a/* | wc -l"),
            Reason.SET_UP_VARIES,
        ),
        (shell(setup="mkdir -p /srv/a"), Reason.NOTHING_PASSES),
        (shell(alternatives=["ls -a /srv/a | wc -l"]), Reason.SOLUTIONS_DISAGREE),
        (shell("Are there 3 files in /srv/a? How many?"), Reason.ANSWER_IN_INSTRUCTION),
        (shell(reference="rm /srv/a/1", expect={"files": {}, "absent": ["/srv/a/1"]}), None),
        (shell(reference="true", expect={"files": {"/srv/a/1": ""}, "absent": []}), Reason.NOTHING_PASSES),
        (shell(reference="true", expect={"files": {}, "absent": ["/srv/a/1"]}), Reason.REFERENCE_FAILS),
    ],
)
def test_the_reason_of_a_shell_task(task: Task, reason: Reason | None, trials: ShellTrials) -> None:
    verdict = validate(task, trials)
    assert verdict.reason == reason, verdict
    assert verdict.kept == (reason is None)


@needs_box
def test_a_task_without_a_solution_is_neither_kept_nor_wrong(trials: ShellTrials) -> None:
    task = shell()
    task = task.model_copy(update={"payload": {k: v for k, v in task.payload.items() if k != "reference"}})
    task.payload["expect"]["answer"] = "3"
    assert validate(task, trials).reason is Reason.UNPROVEN


@needs_box
def test_a_published_task_is_read_in_other_ways(trials: ShellTrials) -> None:
    task = shell("How many entries has /srv/a?", reference="ls -a /srv/a | wc -l")
    assert validate(task, trials).kept
    verdict = validate(task.model_copy(update={"origin": "dataset"}), trials)
    assert verdict.reason is Reason.SOLUTIONS_DISAGREE
    assert "dots" in verdict.detail


@needs_box
def test_generated_tasks_are_kept_by_the_contract_alone() -> None:
    with OperatingSystem(OperatingSystemSettings(mistake_rate=0.0)) as environment:
        trials = ContractTrials(environment, {"finish": (Action(name="finish"),)})
        verdicts = [validate(task, trials) for task in environment.tasks("train", 6, 4)]
    assert [v for v in verdicts if not v.kept] == []
    assert all(v.steps for v in verdicts)


TEAS = Table(
    name="teas", columns=("tea", "price"), types=("text", "int"), rows=(("Assam", 3), ("Oolong", 8), ("Mate", 5))
)


def sql(question: str, statement: str, **payload: Any) -> Task:
    task = sql_task(question, [TEAS], statement, origin="derived")
    return task.model_copy(update={"payload": {**task.payload, **payload}})


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (sql("Which tea costs most?", "SELECT tea FROM teas ORDER BY price DESC LIMIT 1"), None),
        (sql("Delete Mate.", "DELETE FROM teas WHERE tea = 'Mate'"), None),
        (sql("Is it Oolong that costs most?", "SELECT tea FROM teas WHERE price = 8"), Reason.ANSWER_IN_INSTRUCTION),
        (sql("How many cost above 7?", "SELECT COUNT(*) FROM teas WHERE price > 7"), Reason.NOTHING_PASSES),
        (
            sql("What costs most?", "SELECT tea FROM teas WHERE price = 8", solutions=["SELECT MAX(price) FROM teas"]),
            Reason.SOLUTIONS_DISAGREE,
        ),
        (sql("Delete Sencha.", "DELETE FROM teas WHERE tea = 'Sencha'"), Reason.REFERENCE_FAILS),
        (sql("What?", "SELECT tea FROM teas WHERE price = 8", gold="SELECT nothing"), Reason.REFERENCE_FAILS),
    ],
)
def test_the_reason_of_a_database_task(task: Task, reason: Reason | None) -> None:
    with make_environment("db") as environment:
        assert isinstance(environment, Database)
        verdict = validate(task, SqlTrials(environment))
    assert verdict.reason == reason, verdict


def test_generated_database_tasks_are_proven_by_their_expert() -> None:
    with make_environment("db", {"mistake_rate": 0.0}) as environment:
        assert isinstance(environment, Database)
        trials = SqlTrials(environment)
        verdicts = [validate(task, trials) for task in environment.tasks("train", 30, 2)]
    table = counts(verdicts)
    assert sum(n for counter in table.values() for n in counter.values()) == 30
    assert sum(verdict.kept for verdict in verdicts) >= 28, [(v.reason, v.detail) for v in verdicts if not v.kept]


@pytest.mark.parametrize(
    ("answer", "instruction", "given"),
    [
        ("7", "in the last 7 days", True),
        ("7", "in the last 17 days, by 7.5 or v7", False),
        ("log", "Which file, log or txt?", True),
        ("log", "Which logs?", False),
        (".log", "Which file ends in .log?", True),
        ("", "anything", False),
        ("Blue Tit", "the BLUE TIT of Oslo", True),
    ],
)
def test_whether_an_answer_is_given_away(answer: str, instruction: str, given: bool) -> None:
    assert stands_in(answer, instruction) is given
