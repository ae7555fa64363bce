"""Programs give the same by SPARQL as by plain Python, on graphs that hypothesis makes."""

import pyoxigraph
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments.knowledge_graph.graph import Graph, Schema, members, ntriples
from agenttuning.environments.knowledge_graph.programs import (
    Both,
    Count,
    Entity,
    Hop,
    Most,
    Program,
    count_query,
    inner,
    members_query,
    outgoing_query,
    shared,
    topics,
)
from agenttuning.errors import DataError

PREFIX = "urn:test:"
ENTITIES = [f"m.{letter}" for letter in "abcdef"]
RELATIONS = ["a.b.c", "a.b.c..d.e.f", "x.y.z"]
facts = st.sets(
    st.tuples(st.sampled_from(ENTITIES), st.sampled_from(RELATIONS), st.sampled_from(ENTITIES)), max_size=20
)
numbers = st.sets(st.tuples(st.sampled_from(ENTITIES), st.sampled_from([-1.5, 0.0, 3.0, 1e6])), max_size=8)
programs = st.recursive(
    st.sampled_from(ENTITIES).map(Entity),
    lambda inside: st.one_of(
        st.builds(Hop, inside, st.sampled_from(RELATIONS)),
        st.builds(Hop, inside, st.sampled_from(RELATIONS)),
        st.builds(Both, inside, inside),
        st.builds(Most, inside, st.just("a.b.size"), st.booleans()),
    ),
    max_leaves=4,
)


def build(triples: set[tuple[str, str, str]], values: set[tuple[str, float]]) -> Graph:
    graph = Graph(Schema(PREFIX, {relation: ("a.b", "a.b") for relation in RELATIONS}, {"a.b.size": "a.b"}))
    graph.names |= {entity: f'Name "{entity}" \\ \n' for entity in ENTITIES}
    for head, relation, tail in triples:
        graph.add(head, relation, tail)
    for entity, value in values:
        graph.values[entity]["a.b.size"].add(value)
    return graph


def rows(store: pyoxigraph.Store, query: str) -> list[str]:
    found = store.query(query)
    assert isinstance(found, pyoxigraph.QuerySolutions)
    return [row[0].value.removeprefix(PREFIX) for row in found]


@settings(max_examples=150, deadline=None)
@given(facts, numbers, programs)
def test_sparql_and_python_agree(triples, values, program: Program):
    graph = build(triples, values)
    store = pyoxigraph.Store()
    store.load("".join(ntriples(graph)).encode(), format=pyoxigraph.RdfFormat.N_TRIPLES)
    expected = sorted(members(program, graph))
    assert sorted(rows(store, members_query(program, PREFIX, 100))) == expected
    assert rows(store, count_query(program, PREFIX)) == [str(len(expected))]
    assert len(rows(store, members_query(program, PREFIX, 1))) == min(1, len(expected))
    outgoing = {r for entity in expected for r in graph.edges.get(entity, {})}
    outgoing |= {a for entity in expected for a in graph.values.get(entity, {})}
    listed = set(rows(store, outgoing_query(program, PREFIX)))
    assert listed - {"http://www.w3.org/2000/01/rdf-schema#label"} == outgoing


@given(facts, programs, programs)
def test_sharing_leaves_out_only_what_is_asked_twice(triples, left, right):
    graph = build(triples, set())
    assert members(shared(left, right), graph) == members(left, graph) & members(right, graph)
    both = shared(left, right)
    assert shared(both, left) == shared(both, right) == shared(both, both) == both


def test_a_long_chain_through_hubs_costs_its_sets_not_its_paths():
    graph = build({(head, relation, tail) for head in ENTITIES for relation in RELATIONS for tail in ENTITIES}, set())
    store = pyoxigraph.Store()
    store.load("".join(ntriples(graph)).encode(), format=pyoxigraph.RdfFormat.N_TRIPLES)
    program: Program = Entity("m.a")
    for _ in range(15):
        program = Hop(program, "a.b.c")
    assert len(rows(store, members_query(program, PREFIX, 100))) == 6


def test_what_is_inside_a_program_is_found():
    program = Count(Both(Hop(Entity("m.a"), "x.y.z"), Most(Hop(Entity("m.b"), "x.y.z"), "a.b.size", True)))
    assert topics(program) == ["m.a", "m.b"]
    assert [type(part).__name__ for part in inner(program)] == [
        "Count",
        "Both",
        "Hop",
        "Entity",
        "Most",
        "Hop",
        "Entity",
    ]


def test_a_number_has_no_entities_and_an_id_no_brackets():
    with pytest.raises(ValueError, match="a number has no entities"):
        members_query(Count(Entity("m.a")), PREFIX, 1)
    with pytest.raises(DataError, match="is no id"):
        members_query(Hop(Entity("m.a> ?p ?o . <m.b"), "x.y.z"), PREFIX, 1)
