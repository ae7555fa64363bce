from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments.knowledge_graph import cache
from agenttuning.environments.knowledge_graph.grammar import TOOLS, call, parse_call
from agenttuning.environments.knowledge_graph.graph import Graph, Schema
from agenttuning.environments.knowledge_graph.stores import DiskStore
from agenttuning.environments.knowledge_graph.tools import MOST_MEMBERS, Tools

RELATIONS = {
    "film.film.genre": ("film.film", "film.genre"),
    "film.genre.films": ("film.genre", "film.film"),
    "film.film.starring": ("film.film", "film.actor"),
    "film.actor.films": ("film.actor", "film.film"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiskStore, Schema]:
    schema = Schema("urn:test:", RELATIONS, {"film.film.runtime": "film.film"})
    graph = Graph(schema, inverse={"film.film.genre": "film.genre.films", "film.film.starring": "film.actor.films"})
    for film, genre, actor, runtime in (("f1", "g1", "a1", 90), ("f2", "g1", "a2", 120), ("f3", "g2", "a1", 120)):
        graph.add(film, "film.film.genre", genre)
        graph.add(film, "film.film.starring", actor)
        graph.values[film]["film.film.runtime"].add(float(runtime))
        graph.edges[film]["common.topic.image"].add("i1")
    graph.values["f1"]["secret.number"].add(1.0)
    for index in range(MOST_MEMBERS + 5):
        graph.add(f"x{index}", "film.film.genre", "g9")
    directory: Path = tmp_path_factory.mktemp("store")
    cache.fill_store(directory, graph)
    return DiskStore(directory / cache.STORE), cache.read_schema(directory)


@pytest.fixture
def tools(store: tuple[DiskStore, Schema]) -> Tools:
    return Tools(*store, {"Drama": "g1", "Noir": "g2", "Ann, Lee": "a1", "All": "g9"}, max_chars=3000)


def said(tools: Tools, *texts: str) -> str:
    """Carry calls out and return what the last one said."""
    steps = [tools.run(parse_call(text)) for text in texts]
    assert not any(step.error for step in steps[:-1])
    assert steps[-1].error == ("Error: " in steps[-1].observation)
    return steps[-1].observation.removeprefix("Observation: ")


def test_relations_are_those_of_the_vocabulary_and_attributes_are_listed_apart(tools):
    assert said(tools, "get_relations(Drama)") == "[film.genre.films]"
    assert said(tools, "get_neighbors(Drama, film.genre.films)") == "variable #0, which are instances of film.film"
    assert said(tools, "get_relations(#0)") == "[film.film.genre, film.film.starring]"
    assert said(tools, "get_attributes(#0)") == "[film.film.runtime]"


def test_variables_hold_programs_and_give_their_members_when_asked(tools):
    said(tools, "get_relations(Drama)", "get_neighbors(Drama, film.genre.films)", "get_attributes(#0)")
    said(tools, "argmax(#0, film.film.runtime)", "argmin(#0, film.film.runtime)", "count(#0)")
    members = [tools.members(variable)[0] for variable in tools.variables[:3]]
    assert members == [["f1", "f2"], ["f2"], ["f1"]]
    assert tools.variables[3].kind == "number"
    assert tools.number(tools.variables[3].program) == 2


def test_intersection_needs_two_variables_of_one_type(tools):
    said(tools, "get_relations(Drama)", "get_neighbors(Drama, film.genre.films)", "get_relations(Ann, Lee)")
    said(tools, "get_neighbors(Ann, Lee, film.actor.films)")
    assert said(tools, "intersection(#0, #1)") == "variable #2, which are instances of film.film"
    assert tools.members(tools.variables[2]) == (["f1"], 1)
    said(tools, "get_relations(#0)", "get_neighbors(#0, film.film.starring)", "count(#0)")
    assert "#0 are instances of film.film, #3 of film.actor" in said(tools, "intersection(#0, #3)")
    assert "#4 is none" in said(tools, "intersection(#0, #4)")
    assert "Noir is none" in said(tools, "intersection(#0, Noir)")


def test_a_variable_shared_with_itself_again_and_again_stays_one_query(tools):
    said(tools, "get_relations(Drama)", "get_neighbors(Drama, film.genre.films)")
    said(tools, *(f"intersection(#{number}, #{number})" for number in range(12)))
    assert tools.variables[12].program == tools.variables[0].program
    assert tools.members(tools.variables[12]) == (["f1", "f2"], 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("get_relations(#0)", "there is no variable #0; there are none yet"),
        ("get_relations(#x)", "there is no variable #x"),
        ("get_relations(drama)", "'drama' is neither a variable .* the entities are Drama, Noir"),
        ("get_neighbors(Drama, film.genre.films)", r"call get_relations\(Drama\) first"),
        ("count(Drama)", "count works on a variable such as #0"),
        ("get_attributes(Drama)", "get_attributes works on a variable such as #0"),
        ("argmax(Drama, film.film.runtime)", "argmax works on a variable such as #0"),
    ],
)
def test_a_refusal_says_why(tools, call, message):
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(said(tools, call))
    assert tools.variables == []


def test_what_was_not_listed_is_refused(tools):
    said(tools, "get_relations(Drama)", "get_neighbors(Drama, film.genre.films)")
    assert "Drama has no relation 'films'" in said(tools, "get_neighbors(Drama, films)")
    assert "no relation 'common.topic.image'" in said(
        tools, "get_relations(#0)", "get_neighbors(#0, common.topic.image)"
    )
    assert "call get_attributes(#0) first" in said(tools, "argmax(#0, film.film.runtime)")
    assert "no attribute 'secret.number'" in said(tools, "get_attributes(#0)", "argmin(#0, secret.number)")
    said(tools, "count(#0)")
    assert "#1 is a number; get_relations works on entities" in said(tools, "get_relations(#1)")
    assert len(tools.variables) == 2


def test_an_id_of_the_question_is_an_entity_too(tools):
    assert said(tools, "get_relations(g1)") == "[film.genre.films]"
    assert "neither" in said(tools, "get_relations(f1)")


def test_long_lists_are_cut_at_an_item_and_marked(store):
    tools = Tools(*store, {"Drama": "g1"}, max_chars=20)
    said(tools, "get_relations(Drama)", "get_neighbors(Drama, film.genre.films)")
    step = tools.run(parse_call("get_relations(#0)"))
    assert step.note == {"truncated": True}
    assert step.observation == "Observation: [film.film.genre, ... (1 more are not shown)]"


def test_an_answer_beyond_the_limit_is_kept_by_its_size(tools):
    said(tools, "get_relations(All)", "get_neighbors(All, film.genre.films)")
    assert tools.members(tools.variables[0]) == ([], MOST_MEMBERS + 5)


ODD = ["#0", "#1", "#\u00b2", "#" + "9" * 5000, "Drama", "g1", "film.genre.films", "> ?p"]
ARGUMENT = st.sampled_from(ODD) | st.text()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(TOOLS)), ARGUMENT, ARGUMENT), max_size=6))
def test_no_call_breaks_the_tools(store, calls):
    tools = Tools(*store, {"Drama": "g1"}, max_chars=3000)
    said(tools, "get_relations(Drama)", "get_neighbors(Drama, film.genre.films)")
    for tool, *arguments in calls:
        step = tools.run(call(tool, *arguments[: len(TOOLS[tool])]))
        assert step.observation.startswith("Observation: ")


def test_empty_variables_have_no_relations_and_no_members(tools):
    said(tools, "get_relations(Noir)", "get_neighbors(Noir, film.genre.films)", "get_relations(Drama)")
    said(tools, "get_neighbors(Drama, film.genre.films)", "intersection(#0, #1)")
    assert said(tools, "get_relations(#2)") == "[]"
    assert tools.members(tools.variables[2]) == ([], 0)
