import random
from collections import Counter

import pytest

from agenttuning.environments.base import Move, Step, make_environment
from agenttuning.environments.database import Database
from agenttuning.environments.database.environment import DatabaseSettings
from agenttuning.environments.database.grammar import answer, operation
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task

HINDSIGHT = ("expected", "correct", "gold", "the plan", "as asked", "right answer")


def play(env: Database, task: Task, seed: int) -> tuple[list[tuple[Move, Step]], float]:
    """Let the demonstrator play, every move going through text and parser as in a rollout."""
    env.reset(task)
    expert = env.expert(task, random.Random(seed))
    steps: list[tuple[Move, Step]] = []
    move = next(expert)
    while True:
        parsed = env.parse(env.format(move.thought, move.action))
        assert (parsed.thought, parsed.action) == (move.thought, move.action)
        step = env.step(parsed.action)
        steps.append((move, step))
        if step.done:
            break
        move = expert.send(step)
    return steps, env.grade(task, env.close()).reward


@pytest.fixture(scope="module")
def played() -> list[tuple[Task, list[tuple[Move, Step]], float]]:
    env = Database()
    return [(task, *play(env, task, seed)) for seed, task in enumerate(env.tasks("train", 210, 0))]


def test_the_demonstrator_succeeds(played):
    assert sum(reward for *_, reward in played) / len(played) >= 0.95


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_the_demonstrator_succeeds_on_the_other_splits(split):
    env = Database()
    rewards = [play(env, task, seed)[1] for seed, task in enumerate(env.tasks(split, 56, 5))]
    assert sum(rewards) / len(rewards) >= 0.95


def test_a_third_of_the_tasks_takes_three_actions_and_none_many(played):
    lengths = Counter(len(steps) for _, steps, _ in played)
    assert sum(n for length, n in lengths.items() if length >= 3) >= len(played) / 3
    assert max(lengths) <= 8


def test_some_tasks_need_recovery_from_an_error():
    env = Database(DatabaseSettings(mistake_rate=0.0))
    episodes = [(task, play(env, task, 0)[0]) for task in env.tasks("train", 140, 2)]
    failed = {task.family for task, steps in episodes if any(step.error for _, step in steps)}
    assert failed == {"misnamed_column", "misnamed_table"}
    untrained = [move for _, steps in episodes for move, _ in steps if not move.loss]
    assert untrained == []


def test_mistakes_come_at_their_rate_and_are_not_trained():
    env = Database(DatabaseSettings(mistake_rate=1.0))
    families: Counter[str] = Counter()
    for seed, task in enumerate(env.tasks("train", 112, 0)):
        steps, reward = play(env, task, seed)
        assert reward == 1.0
        assert sum(not move.loss for move, _ in steps) <= 1
        assert steps[-1][0].loss
        families[task.family] += any(not move.loss for move, _ in steps)
    never = {family for family in families if families[family] == 0}
    assert never <= {"misnamed_column", "misnamed_table"}


def test_the_default_rate_of_mistakes(played):
    share = sum(any(not move.loss for move, _ in steps) for _, steps, _ in played) / len(played)
    assert 0.05 < share < 0.25


def test_thoughts_are_short_varied_and_without_hindsight(played):
    thoughts = [move.thought for _, steps, _ in played for move, _ in steps]
    assert max(map(len, thoughts)) < 220
    assert len({" ".join(thought.split()[:3]) for thought in thoughts}) > 30
    assert not [thought for thought in thoughts if any(word in thought.casefold() for word in HINDSIGHT)]


def test_answers_of_questions_stand_in_an_observation(played):
    for task, steps, _ in played:
        seen = " ".join(step.observation for _, step in steps[:-1])
        if task.payload["answer"] is not None:
            assert all(value in seen for value in steps[-1][0].action.arguments["values"])


def test_names_that_a_question_does_not_give_are_looked_up_before_they_are_used(played):
    checked = 0
    for task, steps, _ in played:
        if task.family not in ("explore", "misnamed_table"):
            continue
        checked += 1
        known = task.instruction
        for move, step in steps[:-1]:
            sql = move.action.arguments["sql"]
            if sql.startswith("SELECT"):
                table = sql.split(" FROM ")[1].split()[0]
                assert table in known, task
            known += step.observation
    assert checked > 20


def test_doing_nothing_fails_everywhere():
    env = Database()
    for task in env.tasks("train", 70, 4):
        env.reset(task)
        assert env.grade(task, env.close()).reward == 0.0
        for guess in (["done"], ["0"], ["None"], [""]):
            env.reset(task)
            env.step(answer(guess))
            assert env.grade(task, env.close()).reward == 0.0


def test_a_question_is_lost_by_changing_the_data():
    env = Database()
    task = next(task for task in env.tasks("train", 20, 0) if task.family == "lookup")
    env.reset(task)
    env.step(operation(f"DELETE FROM {task.payload['plan']['query']['table']}"))
    env.step(answer(task.payload["answer"]))
    assert env.grade(task, env.close()).reward == 0.0


def test_the_first_observation_is_the_question_and_descriptions_are_short():
    env = Database()
    for task in env.tasks("test", 14, 0):
        assert env.reset(task) == task.instruction
        assert len(env.description(task)) / 3.5 <= 160
    env.close()


def test_nothing_of_an_episode_is_seen_in_the_next():
    env = Database()
    first, second = env.tasks("train", 2, 0)
    env.reset(first)
    env.step(operation("CREATE TABLE secret (a int)"))
    env.step(answer(["secret"]))
    env.reset(second)
    assert "secret" not in env.step(operation("SHOW TABLES")).observation
    assert env.close()["answer"] is None


def test_closing_twice_gives_the_same_evidence_and_stepping_afterwards_is_refused():
    env = Database()
    task = next(env.tasks("train", 1, 0))
    env.reset(task)
    assert env.step(answer(["x"])) == Step("The answer was taken.", done=True)
    evidence = env.close()
    assert env.close() == evidence
    assert evidence["answer"] == ["x"]
    with pytest.raises(RuntimeError, match="reset"):
        env.step(operation("SELECT 1"))


def test_errors_and_cut_results_are_marked():
    env = Database(DatabaseSettings(max_result_chars=80))
    task = next(env.tasks("train", 1, 0))
    env.reset(task)
    step = env.step(operation("SELECT nonsense_ FROM sqlite_master"))
    assert (step.error, step.observation) == (True, "Error: no such column: nonsense_")
    step = env.step(operation("SELECT hex(zeroblob(200))"))
    assert (step.error, step.note) == (False, {"truncated": True})
    env.close()


def test_the_demonstration_is_what_the_environment_would_have_said():
    env = Database()
    turns = env.demonstration()
    task = Task(
        environment="db",
        split="train",
        instruction=turns[0].content,
        payload={
            "tables": [
                {"name": "towns", "columns": ["name", "river"], "types": ["text"] * 2, "rows": [["Vik", "Tana"]]}
            ],
            "answer": ["Tana"],
        },
    )
    env.reset(task)
    assert env.step(env.parse(turns[1].content).action).observation == turns[2].content
    assert env.step(env.parse(turns[3].content).action).done
    evidence = env.close()
    task = task.model_copy(update={"payload": {**task.payload, "state": evidence["state"]}})
    assert env.grade(task, evidence).reward == 1.0
    assert [turn.loss for turn in turns] == [None, False, None, False]


def test_settings_are_validated():
    with pytest.raises(ConfigurationError, match=r"environments\.db\.settings\.mistake_rate"):
        make_environment("db", {"mistake_rate": 2})
    with pytest.raises(ConfigurationError, match="known settings: source"):
        make_environment("db", {"mistakes": 1})
