"""Hindsight and misalignment: on labelled published records, and case by case."""

from collections import Counter

import pytest
from episodes import OPENING, agent, trajectory
from labelled import BLIND, FILES, HINDSIGHT, Counts, labelled, os_pairs, swapped

from agenttuning.curation.thoughts import hindsight, misalignment, spoken_thought
from agenttuning.recipe import Recipe
from agenttuning.trajectory import Turn

RECIPE = Recipe()
TASK = Turn(role="user", content="How many drivers of the table `drivers` are French?")


def counted(rule, name, bad, files=FILES):
    """Counts by whose labels they are; doubtful turns are left out."""
    found = {}
    for record in labelled(files):
        if record.rule in ("both", name):
            objection = rule(record.trajectory, RECIPE)
            for turn, label in record.labels.items():
                if label != "doubtful":
                    counts = found.setdefault(record.by, Counts())
                    counts.add(objection is not None and turn in objection.turns, label in bad)
    return found


def test_hindsight_on_labelled_records():
    found = counted(hindsight, "hindsight", HINDSIGHT)
    assert found["reading"] == Counts(true=15, false=0, missed=0, passed=79)
    assert found["second reader"] == Counts(true=1, false=0, missed=1, passed=46)
    together = Counts(*(sum(getattr(c, key) for c in found.values()) for key in vars(Counts())))
    assert (together.precision, round(together.recall, 2)) == (1.0, 0.94)


def test_hindsight_on_records_that_were_labelled_blind():
    found = counted(hindsight, "hindsight", HINDSIGHT, BLIND)
    # Before the one change that these records led to, it found 16 of the 19.
    assert found == {"blind reader": Counts(true=17, false=0, missed=2, passed=46)}
    assert not any(misalignment(record.trajectory, RECIPE) for record in labelled(BLIND))


def test_misalignment_on_labelled_records():
    found = counted(misalignment, "misalignment", ("bad",))
    assert found["facts"] == Counts(true=6, false=0, missed=0, passed=3)
    assert found["reading"] == Counts(true=1, false=0, missed=0, passed=48)
    assert found["second reader"] == Counts(true=0, false=1, missed=0, passed=47)
    together = Counts(*(sum(getattr(c, key) for c in found.values()) for key in vars(Counts())))
    assert (round(together.precision, 2), together.recall) == (0.88, 1.0)


def test_misalignment_finds_the_thoughts_of_other_records():
    found, all_of = Counter(), Counter()
    for environment, record, turn in swapped():
        objection = misalignment(record, RECIPE)
        all_of[environment] += 1
        found[environment] += objection is not None and turn in objection.turns
    assert all_of == {"mind2web": 20, "db": 650, "os": 272, "webshop": 2, "alfworld": 6}
    assert found["db"] >= 600
    assert found["os"] >= 195
    assert found["mind2web"] >= 13


@pytest.mark.parametrize(
    ("half", "counts"),
    [(0, Counts(true=59, false=0, missed=5, passed=1)), (1, Counts(true=33, false=0, missed=13, passed=1))],
)
def test_misalignment_on_labelled_pairs_of_operating_system_records(half, counts):
    found = Counts()
    for record, turn, label in os_pairs(half):
        objection = misalignment(record, RECIPE)
        if label != "doubtful":
            found.add(objection is not None and turn in objection.turns, label == "bad")
    assert found == counts


@pytest.mark.parametrize(
    ("thought", "fits"),
    [
        ("First, I locate the .conf files in the directory.", False),
        ("I look into /etc/hosts to find the directory.", False),
        ("I count the files in notes.txt, then those of the directory.", False),
        ("First, I locate the .log files in the directory.", True),
        ("I look into /srv/logs to find the files, then into /etc/hosts.", True),
        ("I count the files, e.g. by listing the directory.", True),
        ("I count the files of the directory and/or its logs, as on example.com.", True),
        ("I count the files in notes_2024.txt, then those of the directory.", False),
        ("There are 3.so I count the files.", True),
        ("I count the files, i.e.the logs of the directory.", True),
        ("I count the files of the directory, as on amazon.de.", True),
        ("I count each log of the directory by film.film.genre.", True),
        ("I count each log of the directory with os.path.join.", True),
    ],
)
def test_a_thought_that_names_other_files_is_misaligned(thought, fits):
    task = Turn(role="user", content="Count the files of the directory /srv/logs that end in log.")
    spoken = trajectory((agent("ls", thought=thought),), opening=(*OPENING[:2], task))
    assert (misalignment(spoken, RECIPE) is None) == fits


@pytest.mark.parametrize("environment", ["db", "kg"])
@pytest.mark.parametrize(
    ("thought", "fits"),
    [
        ("I count each log by drivers.name and races.year.", True),
        ("I look into /etc/hosts to find the files.", False),
    ],
)
def test_a_column_or_a_relation_is_no_file(environment, thought, fits):
    task = Turn(role="user", content="Count the files of the directory /srv/logs that end in log.")
    spoken = trajectory((agent("ls", thought=thought),), environment, opening=(*OPENING[:2], task))
    assert (misalignment(spoken, RECIPE) is None) == fits


def after(observation: str, thought: str):
    """A trajectory whose second turn follows `observation`."""
    first = agent("SELECT", thought="I count the French drivers.")
    return trajectory(
        (first, Turn(role="user", content=observation), agent("answer", thought=thought)),
        opening=(*OPENING[:2], TASK),
    )


@pytest.mark.parametrize(
    ("thought", "told"),
    [
        ("The query returned the expected answer.", "knows what was expected"),
        ("The result matches the expected result, so I commit it.", "knows what was expected"),
        ("The output equals the provided answer.", "knows what was expected"),
        ("The evidence provided states that French means nationality = 'French'.", "cites what was never shown"),
        ("According to the reference, it is 12.", "cites what was never shown"),
    ],
)
def test_hindsight_objects(thought, told):
    objection = hindsight(after("[(12,)]", thought), RECIPE)
    assert told in objection.reason
    assert objection.turns == (5,)


@pytest.mark.parametrize(
    "thought",
    [
        "The query should return the expected answer.",
        "There are 12 French drivers.",
        "The output shows 12, which answers the question.",
        "The result may match the expected format.",
        "This item matches the given description and shows the desired color.",
        "The label says that the size is 12.",
    ],
)
def test_hindsight_lets_hopes_and_readings_pass(thought):
    assert hindsight(after("[(12,)]", thought), RECIPE) is None


def test_evidence_may_be_cited_where_it_was_shown():
    shown = Turn(role="user", content="Evidence: French means nationality = 'French'. How many drivers are French?")
    cites = trajectory((agent("q", thought="The evidence states what French means."),), opening=(*OPENING[:2], shown))
    assert hindsight(cites, RECIPE) is None


def first_thought(text: str, instruction: str):
    opening = (*OPENING[:2], Turn(role="user", content=instruction))
    return hindsight(trajectory((agent("q", thought=text),), opening=opening), RECIPE)


def test_the_first_thought_cannot_report_what_was_done_or_found():
    assert "not done yet" in first_thought("The record has been inserted.", "Add Emily to the table.").reason
    assert "before any was seen" in first_thought("There are 12 such files.", "Count the files.").reason
    assert first_thought("There are 2 tables, which I join.", "There are 2 tables. Count the rows.") is None
    assert "before any was seen" in first_thought("The average speed of it is 52.0.", "How fast is it?").reason
    assert first_thought("I look which record was inserted last.", "Which record was inserted last?") is None


@pytest.mark.parametrize(
    "text",
    [
        "There are 2 things to check: the table and its rows.",
        "There are 3 possible ways to do that.",
        "I have been asked to find which users have been locked.",
        "The file has been created by another user maybe; let me check.",
        "First I see whether the record has been inserted.",
        "Once the file has been created, I read it.",
        "If there are 3, I stop.",
    ],
)
def test_a_first_thought_that_asks_supposes_or_plans_reports_nothing(text):
    assert first_thought(text, "Count the files.") is None


@pytest.mark.parametrize(
    ("environment", "thought"),
    [
        ("os", "The problem does not name every file, so I first look at what is in my home directory."),
        ("os", "First, I'll check the home folder of root and its subfolders."),
        ("db", "To find it I use the MAX aggregate on the integer column after casting."),
        ("kg", "I should explore the outgoing edges of the node."),
    ],
)
def test_the_talk_of_an_environments_tools_fits_every_task(environment, thought):
    asked = Turn(role="user", content="How many are there?")
    spoken = trajectory((agent("x", thought=thought),), environment, opening=(*OPENING[:2], asked))
    assert misalignment(spoken, RECIPE) is None


def test_hindsight_reads_trained_turns_only():
    known = agent("a", thought="The query returned the expected answer.", loss=False)
    assert hindsight(trajectory((known, Turn(role="user", content="x"), agent("b"))), RECIPE) is None


PAGE = Turn(role="user", content="<a> Flights </a> <input> Depart </input> Task: fly from Birmingham to Newark")


def web(thought: str, **turn):
    return trajectory((agent("click B", thought=thought, **turn),), opening=(*OPENING[:2], PAGE))


def test_misalignment_names_the_strange_words():
    objection = misalignment(web("I must type Chicago Bears into the ticket search."), RECIPE)
    assert "chicago" in objection.reason
    assert objection.turns == (3,)
    assert misalignment(web("To fly from Birmingham I click the departure field."), RECIPE) is None
    assert misalignment(web("I must type Chicago Bears into the ticket search.", loss=False), RECIPE) is None


def test_a_thought_of_everyday_words_fits_every_task():
    assert misalignment(web("First, I look at the page and then click the next one."), RECIPE) is None


def test_the_words_of_an_answered_action_count_as_shown():
    thought = "I run grep with the regex pattern dot."
    ran = agent("grep -c regex pattern.dot", thought=thought)
    assert misalignment(trajectory((ran,)), RECIPE) is not None
    assert misalignment(trajectory((ran, Turn(role="user", content="3"))), RECIPE) is None


def test_what_was_observed_counts_as_shown():
    seen = (agent("look"), Turn(role="user", content="On the shelf stand a vase and a candle."))
    spoken = agent("take", thought="The vase beside the candle on the shelf is what I take.")
    assert misalignment(trajectory((*seen, spoken)), RECIPE) is None
    assert misalignment(trajectory((agent("look"), Turn(role="user", content="Nothing."), spoken)), RECIPE) is not None


def test_the_spoken_thought_is_the_parsed_one_or_the_text():
    turn = Turn(role="assistant", content="all of it", loss=True)
    assert spoken_thought(turn) == "all of it"
    assert spoken_thought(turn.model_copy(update={"reasoning": "r"})) == "r"
    assert spoken_thought(agent("x", thought="t")) == "t"
    assert spoken_thought(agent("x", thought=None)) == ""
