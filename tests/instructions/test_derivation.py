"""Derived trajectories execute the gold program; their thoughts are asked for before the outcome is known."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fake_endpoint import fake_endpoint

from agenttuning.curation.steps import first_task_turn
from agenttuning.environments.base import Environment, make_environment
from agenttuning.environments.database.environment import Database
from agenttuning.environments.database.grammar import answer, operation
from agenttuning.environments.database.tables import Table
from agenttuning.environments.knowledge_graph.environment import KnowledgeGraph, KnowledgeGraphSettings
from agenttuning.environments.operating_system import OperatingSystem
from agenttuning.environments.sandbox import sandbox_problem
from agenttuning.instructions.derivation import NotDerived, derive_trajectory, hidden_answer, thought_problem
from agenttuning.instructions.shell_proposals import ShellProposals
from agenttuning.instructions.sql_proposals import sql_task
from agenttuning.instructions.sql_trials import SqlTrials
from agenttuning.instructions.trials import ContractTrials, Solution
from agenttuning.policies.base import Reply
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.trajectory import Task, Trajectory, Turn

PROBLEM = sandbox_problem()
PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
TEAS = Table(name="teas", columns=("tea", "price"), types=("text", "int"), rows=(("Assam", 3), ("Oolong", 8888)))
QUESTION = "Which tea costs most?"


class Thinker:
    """A policy that writes what a test decides, and keeps what it was shown."""

    name = "thinker"
    settings: ClassVar[dict[str, Any]] = {"temperature": 0.0}

    def __init__(self, write: Callable[[str, int], str] = lambda shown, n: "This is the next thing to do.") -> None:
        self._write = write
        self.shown: list[str] = []
        self.turns: list[tuple[Turn, ...]] = []

    async def act(self, turns: tuple[Turn, ...], seed: int) -> Reply:
        self.turns.append(turns)
        self.shown.append("\n".join(turn.content for turn in turns))
        return Reply(self._write(self.shown[-1], len(self.shown) - 1), prompt_tokens=10, completion_tokens=5)

    async def aclose(self) -> None: ...


def derive(env: Environment, task: Task, solution: Solution, policy: Any, **more: Any) -> Trajectory | NotDerived:
    return asyncio.run(derive_trajectory(env, task, solution, policy, **more))


def tea_task(sql: str = "SELECT tea FROM teas ORDER BY price DESC LIMIT 1") -> Task:
    return sql_task(QUESTION, [TEAS], sql, origin="derived")


def with_gold(statements: list[str], policy: Any) -> Trajectory | NotDerived:
    task = tea_task()
    task = task.model_copy(update={"payload": {**task.payload, "gold": statements}})
    with make_environment("db") as env:
        assert isinstance(env, Database)
        return derive(env, task, SqlTrials(env).solutions(task)["gold"], policy)


def test_sql_is_executed_step_by_step_and_the_answer_is_what_was_shown() -> None:
    policy = Thinker(lambda shown, n: f"Thought {('one', 'two', 'three')[n]}.")
    steps = ["SELECT MAX(price) FROM teas", "SELECT tea FROM teas WHERE price = 8888"]
    made = with_gold(steps, policy)
    assert isinstance(made, Trajectory)
    own = [turn for turn in made.turns if turn.loss]
    assert [turn.thought for turn in own] == ["Thought one.", "Thought two.", "Thought three."]
    assert [turn.action.arguments for turn in own if turn.action] == [
        {"sql": steps[0]}, {"sql": steps[1]}, {"values": ["Oolong"]},
    ]  # fmt: skip
    assert (made.reward, made.outcome.value, made.policy, made.steps) == (1.0, "completed", "derived:thinker", 3)
    assert made.task.origin == "derived"
    assert [call.turn for call in made.calls] == [i for i, turn in enumerate(made.turns) if turn.loss]
    assert all(call.edit for call in made.calls)
    assert Trajectory.model_validate_json(made.model_dump_json()) == made


def test_the_policy_never_sees_an_outcome_before_its_thought() -> None:
    policy = Thinker()
    made = with_gold(["SELECT MAX(price) FROM teas", "SELECT tea FROM teas WHERE price > 100"], policy)
    assert isinstance(made, Trajectory)
    assert "8888" not in policy.shown[0]
    assert "SELECT MAX(price)" in policy.shown[0]
    assert "8888" in policy.shown[1]
    assert "Oolong" not in policy.shown[1]
    assert "Oolong" in policy.shown[2]
    for turns in policy.turns:
        assert turns[-1].role == "user"
        assert "Reply with the thought alone" in turns[-1].content
    assert not any("Reply with the thought" in turn.content for turn in made.turns)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "The price will be 8888.",
        "I expect the answer `Oolong`.",
        'It must be "Earl Grey" then.',
        "word " * 200,
        "First.\nAction: Answer\nFinal Answer: [\"x\"]",
    ],
)  # fmt: skip
def test_a_thought_that_will_not_do_is_asked_for_again(bad: str) -> None:
    policy = Thinker(lambda shown, n: bad if n == 0 else "I look at the prices.")
    made = with_gold(["SELECT tea FROM teas ORDER BY price DESC LIMIT 1"], policy)
    if bad.startswith("First."):  # on one line it is a thought that only speaks of an action
        assert isinstance(made, Trajectory)
        return
    assert isinstance(made, Trajectory)
    assert made.diagnostics["thoughts_rewritten"] == 1
    assert bad not in [turn.thought for turn in made.turns]
    never = with_gold(["SELECT tea FROM teas ORDER BY price DESC LIMIT 1"], Thinker(lambda shown, n: bad))
    assert isinstance(never, NotDerived)
    assert never.reason == "no_thought"


def test_a_gold_program_that_fails_is_told_by_name() -> None:
    made = with_gold(["SELECT tea FROM teas ORDER BY price LIMIT 1"], Thinker())
    assert isinstance(made, NotDerived)
    assert made.reason == "gold_fails"


def test_an_answer_that_was_never_shown_is_not_given_to_the_policy() -> None:
    from agenttuning.environments.base import Expert, Move

    def guess(environment: Environment) -> Expert:
        yield Move("", answer(["Oolong"]))

    policy = Thinker()
    with make_environment("db") as env:
        made = derive(env, tea_task(), guess, policy)
    assert isinstance(made, NotDerived)
    assert made.reason == "answer_not_shown"
    assert policy.shown == []


def test_any_environment_with_an_expert_can_be_derived_from() -> None:
    with make_environment("db", {"mistake_rate": 0.0}) as env:
        trials = ContractTrials(env)
        made = [
            derive(env, task, trials.solutions(task)["expert"], Thinker()) for task in env.tasks("train", 12, 0)
        ]  # fmt: skip
    good = [trajectory for trajectory in made if isinstance(trajectory, Trajectory)]
    assert len(good) >= 11, [(m.reason, m.detail) for m in made if isinstance(m, NotDerived)]


def test_a_deliberate_mistake_keeps_its_own_thought_and_no_loss() -> None:
    with make_environment("db", {"mistake_rate": 1.0}) as env:
        trials = ContractTrials(env)
        made = [derive(env, task, trials.solutions(task)["expert"], Thinker()) for task in env.tasks("train", 12, 0)]
    mistakes = [turn for t in made if isinstance(t, Trajectory) for turn in t.turns if turn.action and not turn.loss]
    assert mistakes
    assert all(turn.thought != "This is the next thing to do." for turn in mistakes)
    derived = [t for t in made if isinstance(t, Trajectory)]
    assert all(t.task.instruction in t.turns[first_task_turn(t)].content for t in derived)
    assert all([c.turn for c in t.calls] == [i for i, turn in enumerate(t.turns) if turn.action] for t in derived)


@pytest.mark.parametrize(
    ("cited", "shown", "fits"),
    [
        ("14", "It was 2014.", False),
        ("14", "It was 14.5 then.", False),
        ("2014", "It was 2014.", True),
        ("14", "[(14,), ('a',)]", True),
        ("7", "nothing", True),
    ],
)
def test_a_number_is_shown_as_a_word_of_its_own(cited: str, shown: str, fits: bool) -> None:
    with make_environment("db") as env:
        problem = thought_problem(env, f"There were {cited} teas.", operation("SELECT 1"), shown)
    assert (problem is None) == fits, problem


@pytest.mark.parametrize(
    ("value", "shown", "hidden"),
    [
        ("14", "It was 2014.", "14"),
        ("Oolong", "[('Oolong',)]", None),
        ("Assam\nOolong", r"[('Assam\nOolong',)]", None),
        ("", "", None),
        ("-5", "[(-5,)]", None),
    ],
)
def test_an_answer_is_shown_as_words_of_its_own(value: str, shown: str, hidden: str | None) -> None:
    assert hidden_answer(answer([value]), shown) == hidden


@pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
def test_a_shell_question_becomes_a_task_and_a_trajectory_over_a_real_endpoint() -> None:
    question = {
        "instruction": "How many lines of /srv/log.txt name a wolf?",
        "setup": "printf 'wolf\\nhare\\nwolf\\nwolf\\n' > /srv/log.txt",
        "reference": "grep wolf /srv/log.txt | wc -l",
        "check": {"rule": "integer-match"},
    }
    with make_environment("os") as env:
        assert isinstance(env, OperatingSystem)
        task = ShellProposals(env, origin="derived").task(question)

    async def play(base_url: str) -> Trajectory | NotDerived:
        policy = EndpointPolicy(base_url, "toy-model", patience_s=5)
        try:
            with make_environment("os", {"mistake_rate": 0.0}) as env:
                solution = ContractTrials(env).solutions(task)["expert"]
                return await derive_trajectory(env, task, solution, policy)
        finally:
            await policy.aclose()

    with fake_endpoint(lambda body, n: f"I go on with step {n}.") as fake:
        made = asyncio.run(play(fake.base_url))
    assert isinstance(made, Trajectory)
    assert made.turns[-1].content.endswith("Act: answer(3)")
    assert [turn.thought for turn in made.turns if turn.loss] == [f"I go on with step {n}." for n in range(made.steps)]


def test_household_games_are_derived_from_their_walkthrough() -> None:
    with make_environment("alfworld", {"mistake_rate": 0.0}) as env:
        task = next(env.tasks("train", 1, 0))
        policy = Thinker(lambda shown, n: "I go on with the household task.")
        made = derive(env, task, ContractTrials(env).solutions(task)["expert"], policy)
    assert isinstance(made, Trajectory)
    assert made.reward == 1.0
    assert {turn.thought for turn in made.turns if turn.loss} == {"I go on with the household task."}


def test_gold_calls_on_a_knowledge_graph_are_derived_from(tmp_path: Path) -> None:
    settings = KnowledgeGraphSettings(mistake_rate=0.0, store_directory=str(tmp_path))
    policy = Thinker(lambda shown, n: "I ask the graph for the next thing.")
    with KnowledgeGraph(settings) as env:
        tasks = list(env.tasks("train", 6, 0))
        made = [derive(env, task, ContractTrials(env).solutions(task)["expert"], policy) for task in tasks]
    good = [trajectory for trajectory in made if isinstance(trajectory, Trajectory)]
    assert len(good) == 6, [(m.reason, m.detail) for m in made if isinstance(m, NotDerived)]
    for trajectory in good:
        own = [turn for turn in trajectory.turns if turn.loss]
        assert {turn.thought for turn in own} == {"I ask the graph for the next thing."}
        assert own[-1].action is not None
        assert own[-1].action.name == "answer"


@pytest.mark.data
@pytest.mark.skipif(not (PUBLISHED / "alfworld").is_dir(), reason="no published data in ../shared/data")
def test_an_official_walkthrough_is_derived_from() -> None:
    with make_environment("alfworld", {"source": "official", "mistake_rate": 0.0}, str(PUBLISHED)) as env:
        task = next(env.tasks("train", 1, 0))
        made = derive(env, task, ContractTrials(env).solutions(task)["expert"], Thinker())
    assert isinstance(made, Trajectory)
    assert made.steps >= 3
