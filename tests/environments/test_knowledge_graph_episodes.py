import random
from collections import Counter

import pytest

from agenttuning.environments.base import Grade, Move, Step
from agenttuning.environments.knowledge_graph import KnowledgeGraph, cache
from agenttuning.environments.knowledge_graph.environment import KnowledgeGraphSettings
from agenttuning.environments.knowledge_graph.grammar import answer, call
from agenttuning.environments.knowledge_graph.graph import Graph, Schema
from agenttuning.environments.knowledge_graph.programs import FREEBASE
from agenttuning.environments.knowledge_graph.stores import DiskStore
from agenttuning.environments.knowledge_graph.tools import Tools
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task

HINDSIGHT = ("expected", "correct", "gold answer", "the plan", "as asked", "right answer", "turns out")
Steps = list[tuple[Move, Step]]


def play(env: KnowledgeGraph, task: Task, seed: int) -> tuple[Steps, Grade]:
    """Let the demonstrator play, every move going through text and parser as in a rollout."""
    env.reset(task)
    expert = env.expert(task, random.Random(seed))
    steps: Steps = []
    move = next(expert)
    while True:
        parsed = env.parse(env.format(move.thought, move.action))
        assert (parsed.thought, parsed.action) == (move.thought, move.action)
        step = env.step(parsed.action)
        steps.append((move, step))
        if step.done:
            break
        move = expert.send(step)
    return steps, env.grade(task, env.close())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def env(kept: str) -> KnowledgeGraph:
    return KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept))


@pytest.fixture(scope="module")
def tasks(kept: str) -> list[Task]:
    return list(KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept)).tasks("train", 240, 0))


@pytest.fixture(scope="module")
def played(kept: str, tasks: list[Task]) -> list[tuple[Task, Steps, Grade]]:
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept))
    return [(task, *play(env, task, seed)) for seed, task in enumerate(tasks)]


def test_the_demonstrator_succeeds(played):
    assert sum(grade.reward for *_, grade in played) / len(played) >= 0.95


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_the_demonstrator_succeeds_on_the_other_splits(env, split):
    grades = [play(env, task, seed)[1] for seed, task in enumerate(env.tasks(split, 60, 5))]
    assert sum(grade.reward for grade in grades) / len(grades) >= 0.95


def test_episodes_are_within_the_limit_and_a_third_are_long(played):
    lengths = [len(steps) for _, steps, _ in played]
    assert max(lengths) <= KnowledgeGraph.max_steps
    assert sum(length > 3 for length in lengths) >= len(lengths) / 3


def test_relations_are_listed_before_they_are_followed(played):
    for task, steps, _ in played:
        listed: dict[str, str] = {}
        for move, step in steps:
            arguments = move.action.arguments
            if move.action.name in ("get_relations", "get_attributes"):
                listed[arguments["variable"]] = listed.get(arguments["variable"], "") + step.observation
            name = arguments.get("relation") or arguments.get("attribute")
            assert not name or not move.loss or name in listed[arguments["variable"]], task


def test_thoughts_cite_only_what_was_shown(played):
    """No id, no relation, no attribute and no type stands in a trained thought before the agent saw it."""
    for task, steps, _ in played:
        shown = task.instruction
        for move, step in steps:
            if move.loss:
                assert not [entity for entity in task.payload["entities"].values() if entity in move.thought]
                words = [word.strip('.,;:?"()') for word in move.thought.split()]
                cited = [word for word in words if word.count(".") >= 1 or word.startswith("#")]
                assert all(word in shown for word in cited), (move.thought, shown)
            shown += "\n" + step.observation


def test_thoughts_are_short_varied_and_without_hindsight(played):
    thoughts = [move.thought for _, steps, _ in played for move, _ in steps]
    assert max(map(len, thoughts)) < 400
    assert len(set(thoughts)) > len(thoughts) / 2
    assert len({" ".join(thought.split()[:3]) for thought in thoughts}) > 200
    assert not [thought for thought in thoughts if any(word in thought.casefold() for word in HINDSIGHT)]


def test_mistakes_come_at_their_rate_are_mended_and_not_trained(kept, tasks, played):
    share = sum(any(not move.loss for move, _ in steps) for _, steps, _ in played) / len(played)
    assert 0.08 < share < 0.25
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept, mistake_rate=1.0))
    kinds: Counter[str] = Counter()
    for seed, task in enumerate(tasks):
        steps, grade = play(env, task, seed)
        assert grade.reward == 1.0
        wrong = [(move, step) for move, step in steps if not move.loss]
        assert len(wrong) <= 1
        assert steps[-1][0].loss
        for move, step in wrong:
            kinds[f"{move.action.name} {step.error}"] += 1
    assert sum(kinds.values()) > 0.8 * len(tasks)
    assert {"get_relations True", "get_neighbors True", "get_neighbors False", "intersection True"} <= set(kinds)
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept, mistake_rate=0.0))
    for seed, task in enumerate(tasks[:60]):
        assert all(move.loss and not step.error for move, step in play(env, task, seed)[0])


def test_the_same_seed_plays_the_same_episode(env, tasks):
    for task in tasks[:20]:
        assert play(env, task, 3) == play(env, task, 3)


def test_doing_nothing_or_answering_at_once_fails(env, tasks):
    for task in tasks[:48]:
        env.reset(task)
        assert env.grade(task, env.close()) == Grade(0.0, 0.0)
        env.reset(task)
        step = env.step(answer("#0"))
        assert (step.done, step.error) == (False, True)
        assert "there are none yet" in step.observation
        assert env.grade(task, env.close()) == Grade(0.0, 0.0)


def test_a_part_of_the_answer_scores_its_f1_and_earns_nothing(env, tasks):
    task = next(task for task in tasks if task.family == "one_hop" and len(task.payload["answer"]) > 3)
    gold = task.payload["answer"]
    evidence = {"answer": "#0", "entities": gold[:1], "size": 1, "number": None}
    grade = env.grade(task, evidence)
    assert grade.reward == 0.0
    assert grade.score == pytest.approx(2 / (1 + len(gold)))


def test_nothing_of_an_episode_is_seen_in_the_next(env, tasks):
    first, second = tasks[:2]
    name = next(iter(first.payload["entities"]))
    env.reset(first)
    env.step(call("get_relations", name))
    env.reset(second)
    step = env.step(call("get_relations", name))
    assert step.error == (name not in second.payload["entities"])
    assert env.step(call("count", "#0")).error
    assert env.close() == {"answer": None, "entities": [], "size": 0, "number": None}


def test_closing_twice_gives_the_same_evidence_and_stepping_afterwards_is_refused(env, tasks):
    steps, _ = play(env, tasks[0], 0)
    evidence = env.close()
    assert env.close() == evidence
    assert evidence["answer"] == steps[-1][0].action.arguments["variable"]
    with pytest.raises(RuntimeError, match="reset"):
        env.step(call("count", "#0"))
    env.shutdown()
    assert play(env, tasks[0], 0)[0] == steps


def test_an_expert_stops_where_a_relation_is_not_shown(kept, tasks):
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept, max_list_chars=80))
    task = next(t for t in tasks if "business.company.subsidiaries" in " ".join(t.payload["actions"]))
    env.reset(task)
    expert, notes = env.expert(task, random.Random(1)), []
    move: Move | None = next(expert)
    while move is not None:
        step = env.step(move.action)
        notes.append(step.note)
        try:
            move = expert.send(step)
        except StopIteration:
            move = None
    assert {"truncated": True} in notes
    assert env.grade(task, env.close()).reward == 0.0


def test_the_demonstration_is_what_the_tools_would_have_said(env, tmp_path):
    turns = env.demonstration()
    graph = Graph(Schema(FREEBASE, {"book.book.author": ("book.book", "book.author")}, {}))
    for book in ("m.1", "m.2"):
        graph.add(book, "book.book.author", "m.3")
    cache.fill_store(tmp_path, graph)
    entities = {"The Mill": "m.1", "A Lake at Noon": "m.2"}
    tools = Tools(DiskStore(tmp_path / cache.STORE), graph.schema, entities, 3000)
    for said, seen in zip(turns[1:-1:2], turns[2::2], strict=True):
        assert tools.run(env.parse(said.content).action).observation == seen.content
    assert env.parse(turns[-1].content).action == answer("#2")
    assert tools.members(tools.named("#2")) == (["m.3"], 1)
    assert {turn.loss for turn in turns if turn.role == "assistant"} == {False}
    assert (
        turns[0].content
        == "Question: Who wrote both The Mill and A Lake at Noon?\nEntities: [The Mill, A Lake at Noon]"
    )


def test_the_first_observation_is_the_question_and_the_description_is_short(env, tasks):
    assert env.reset(tasks[0]) == tasks[0].instruction
    assert len(env.description(tasks[0])) / 3.5 <= 400
    assert "15 turns" in env.description(tasks[0])


def test_settings_are_validated():
    with pytest.raises(ConfigurationError, match=r"needs data\.root"):
        next(KnowledgeGraph(KnowledgeGraphSettings(source="metaqa")).tasks("train", 1, 0))
    with pytest.raises(ValueError, match="mistake_rate"):
        KnowledgeGraphSettings(mistake_rate=2)
