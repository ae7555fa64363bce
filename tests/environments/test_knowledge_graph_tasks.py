import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from agenttuning.environments.knowledge_graph import KnowledgeGraph
from agenttuning.environments.knowledge_graph.environment import KnowledgeGraphSettings
from agenttuning.environments.knowledge_graph.families import FAMILIES, MOST_ANSWERS, Pool, fair
from agenttuning.environments.knowledge_graph.graph import Graph, Schema, members
from agenttuning.environments.knowledge_graph.plans import calls, parse_calls, starts
from agenttuning.environments.knowledge_graph.programs import Both, Count, Entity, Hop, Most, Program, inner, topics
from agenttuning.environments.knowledge_graph.wording import MAIN, SHIFTED, Words, relation_words
from agenttuning.environments.knowledge_graph.world import embedded_graph
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task

COUNTS = {"train": 240, "test": 120, "shifted": 120}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return embedded_graph()


@pytest.fixture(scope="module")
def tasks(kept: str) -> dict[str, list[Task]]:
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept))
    return {split: list(env.tasks(split, count, 0)) for split, count in COUNTS.items()}


def program_of(task: Task) -> Program:
    """Read the gold calls back as a program, apart from the code that wrote them."""
    made: list[Program] = []

    def named(text: str) -> Program:
        return made[int(text[1:])] if text.startswith("#") else Entity(text)

    for action in parse_calls(task.payload["actions"]):
        first, *rest = action.arguments.values()
        match action.name:
            case "get_neighbors":
                made.append(Hop(named(first), rest[0]))
            case "intersection":
                made.append(Both(named(first), named(rest[0])))
            case "argmax" | "argmin":
                made.append(Most(named(first), rest[0], action.name == "argmax"))
            case "count":
                made.append(Count(named(first)))
    return made[-1]


def on_the_way(task: Task, graph: Graph) -> set[str]:
    parts = [part for part in inner(program_of(task)) if not isinstance(part, Count)]
    return {entity for part in parts for entity in members(part, graph)}


def test_the_graph_has_thousands_of_entities_in_three_apart_pieces(graph):
    sizes = Counter(graph.parts.values())
    assert sizes["train"] > 4000
    assert sizes["test"] > 1500
    assert sizes["shifted"] > 800
    assert sizes["none"] < 30
    assert set(graph.names) == set(graph.parts)
    for head, relations in graph.edges.items():
        for relation, tails in relations.items():
            assert relation in graph.schema.relations
            assert graph.phrases[relation].one
            if "shifted" in (graph.parts[head], *(graph.parts[tail] for tail in tails)):
                assert {graph.parts[entity] for entity in (head, *tails)} == {"shifted"}


def test_relations_lead_where_their_types_say(graph):
    """An entity has relations of one type only, and every tail of a relation is of its range."""
    kinds = {head: {graph.schema.relations[r][0] for r in relations} for head, relations in graph.edges.items()}
    assert {len(kind) for kind in kinds.values()} == {1}
    for relations in graph.edges.values():
        for relation, tails in relations.items():
            for tail in tails:
                assert kinds.get(tail, set()) <= {graph.schema.relations[relation][1]}


def test_splits_share_no_task_and_no_entity_on_the_way(tasks, graph):
    ids = [{task.id for task in split} for split in tasks.values()]
    assert [len(split) for split in ids] == list(COUNTS.values())
    ways = {split: set().union(*(on_the_way(task, graph) for task in found)) for split, found in tasks.items()}
    for first in ways:
        assert {graph.parts[entity] for entity in ways[first]} == {first}
        for second in ways:
            assert first == second or ways[first].isdisjoint(ways[second])


def test_shifted_has_other_relations_and_other_words(tasks):
    relations = {
        split: {
            v for t in found for a in parse_calls(t.payload["actions"]) for k, v in a.arguments.items() if k[0] in "ra"
        }
        for split, found in tasks.items()
    }
    assert relations["shifted"].isdisjoint(relations["train"] | relations["test"])
    for name in vars(MAIN):
        assert set(getattr(MAIN, name)).isdisjoint(getattr(SHIFTED, name))


def test_families_come_in_equal_shares_and_many_tasks_are_long(tasks):
    for found in tasks.values():
        families = Counter(task.family for task in found)
        assert set(families) == set(FAMILIES)
        assert len(FAMILIES) >= 6
        assert max(families.values()) - min(families.values()) <= 1
        assert sum(len(task.payload["actions"]) >= 3 for task in found) >= len(found) / 3
        assert max(len(task.payload["actions"]) for task in found) + 1 <= KnowledgeGraph.max_steps


def test_difficulty_is_the_share_of_the_turns_that_the_calls_take(tasks):
    for found in tasks.values():
        assert len({task.difficulty for task in found}) >= 5
        for task in found:
            assert task.difficulty == len(task.payload["actions"]) / (KnowledgeGraph.max_steps - 1) <= 1.0


def test_every_question_has_few_answers_none_of_which_it_names(tasks, graph):
    for task in [task for found in tasks.values() for task in found]:
        program, payload = program_of(task), task.payload
        assert sorted(payload["entities"].values()) == sorted(topics(program))
        if isinstance(program, Count):
            assert payload["number"] == len(members(program.of, graph)) >= 2
            assert payload["answer"] == []
        else:
            assert payload["number"] is None
            assert 1 <= len(payload["answer"]) <= MOST_ANSWERS
            assert set(payload["answer"]) == members(program, graph)
            assert not [e for e in payload["answer"] if f" {graph.names[e]} " in f" {task.instruction} "]
        for name in payload["entities"]:
            assert name in task.instruction
        for phrase in payload["phrases"]:
            assert phrase.casefold() in task.instruction.casefold()


def test_the_same_seed_gives_the_same_tasks_and_a_longer_list_begins_with_them(kept, tasks):
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept))
    assert [t.id for t in env.tasks("train", 30, 0)] == [t.id for t in tasks["train"][:30]]
    other = {task.instruction for task in env.tasks("train", 30, 1)}
    assert len(other - {task.instruction for task in tasks["train"]}) > 20


def test_questions_are_worded_in_many_ways(tasks):
    starts_ = {" ".join(task.instruction.split()[1:4]) for task in tasks["train"]}
    assert len(starts_) > 25


def test_families_are_chosen_by_name(kept):
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept, families=("count", "argmax")))
    assert Counter(task.family for task in env.tasks("test", 10, 3)) == {"count": 5, "argmax": 5}
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept, families=("counts",)))
    with pytest.raises(ConfigurationError, match="did you mean 'count'"):
        next(env.tasks("test", 1, 0))


def test_an_unknown_split_is_refused(kept):
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept))
    with pytest.raises(ConfigurationError, match=r"environments\.kg\.dev_tasks=0"):
        next(env.tasks("dev", 1, 0))
    assert list(env.tasks("dev", 0, 0)) == []


def test_a_family_without_more_tasks_is_left_out_and_no_program_is_asked_twice(kept, monkeypatch):
    monkeypatch.setattr("agenttuning.environments.knowledge_graph.tasks.MAX_DRAWS", 4)
    env = KnowledgeGraph(KnowledgeGraphSettings(store_directory=kept, families=("one_hop", "argmax")))
    found = list(env.tasks("test", 10**6, 0))
    assert 10 < len(found) < 10**5
    assert len({program_of(task) for task in found}) == len(found)


def test_calls_are_read_back_as_the_program_they_were_written_from(graph):
    pool = Pool(graph, {e for e, part in graph.parts.items() if part == "shifted"}, set(graph.schema.relations))
    rng, written = random.Random(5), 0
    while written < 300:
        program = rng.choice(list(FAMILIES.values()))(pool, rng)
        if program is None or not fair(program, graph):
            continue
        written += 1
        texts, made = calls(program)
        payload = {"actions": texts}
        task = Task(environment="kg", split="train", instruction="", payload=payload)
        assert program_of(task) == program == made[-1]
        assert starts(parse_calls(texts)) == set(topics(program))


def test_number_of_words_follows_what_is_inside(graph):
    words = Words(graph, MAIN)
    ghana = next(entity for entity, name in graph.names.items() if name == "Ghana")
    capital = Hop(Entity(ghana), "location.country.capital")
    capitals = Hop(Hop(Entity(ghana), "location.country.neighbours"), "location.country.capital")
    one = {words.question(capital, random.Random(seed))[0] for seed in range(30)}
    many = {words.question(capitals, random.Random(seed))[0] for seed in range(60)}
    assert {"What is the capital of Ghana?", "Find the capital city of Ghana."} <= one
    assert "What are the capitals of the neighbours of Ghana?" in many
    assert not [text for text in one | many if "[" in text or "|" in text]


def test_names_of_relations_are_read_as_words():
    assert relation_words("people.person.place_of_birth") == "place of birth"
    assert relation_words("film.film.starring..film.performance.actor") == "actor under starring"
    assert relation_words("a.b.position_s") == "position"


def test_programs_that_go_round_in_circles_are_not_fair(graph):
    """Every hop of a fair program gives something new."""
    country = next(entity for entity, name in graph.names.items() if name == "Ghana")
    capital = Hop(Entity(country), "location.country.capital")
    assert fair(capital, graph)
    assert not fair(Hop(capital, "location.city.country"), graph)
    assert not fair(Hop(Hop(capital, "location.city.country"), "location.country.continent"), graph)
    cities = Hop(Entity(country), "location.country.cities")
    assert not fair(Both(cities, capital), graph)
    assert not fair(Most(capital, "location.city.population", True), graph)
    assert not fair(Count(capital), graph)
    assert fair(Count(cities), graph)


def test_a_world_is_the_same_every_time(graph):
    again = embedded_graph()
    assert again.parts == graph.parts
    assert again.edges == graph.edges
    assert again.values == graph.values


def test_sources_of_the_fingerprint_exist():
    from agenttuning.environments.knowledge_graph.sources import fingerprint
    from agenttuning.environments.knowledge_graph.world import SOURCES

    assert all(Path(path).is_file() for path in SOURCES)
    assert fingerprint("generated", None) == fingerprint("generated", None)
    assert all(a != b for a, b in pairwise(SOURCES))


def test_no_question_compares_by_an_identifier():
    graph = Graph(Schema("urn:test:", {"a.b.c": ("a.b", "a.b")}, {"a.b.size": "a.b", "a.b.code": "a.b"}))
    for tail in ("m.1", "m.2"):
        graph.add("m.0", "a.b.c", tail)
        graph.values[tail] = {"a.b.size": {1.0}, "a.b.code": {2.0}}
    graph.identifiers = frozenset({"a.b.code"})
    pool = Pool(graph, set(graph.edges), set(graph.schema.relations))
    drawn = {pool.extreme(pool.start(random.Random(seed)), random.Random(seed), True) for seed in range(20)}
    assert {most.attribute for most in drawn if most} == {"a.b.size"}
