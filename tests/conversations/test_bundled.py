"""The bundled texts: their shape, their variety, and that the probes share nothing with the instructions."""

import re
from collections import Counter
from pathlib import Path

import orjson
import pytest

from agenttuning.conversations.bundled import all_instructions, bundled_instructions
from agenttuning.errors import ConfigurationError

PROBES = Path(__file__).parents[2] / "agenttuning" / "evaluation" / "data"


def lines(name: str) -> list[dict]:
    return [orjson.loads(line) for line in (PROBES / name).read_bytes().splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def grams(text: str, n: int = 8) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def probe_texts() -> list[str]:
    dialogues = [m["content"] for d in lines("general_dialogues.jsonl") for m in d["messages"]]
    return dialogues + [i["prompt"] for i in lines("general_instructions.jsonl")]


def test_instructions_are_many_and_of_many_kinds():
    known = all_instructions()
    assert len(known) >= 480
    assert len({i.id for i in known}) == len(known)
    assert all(1 <= len(i.turns) <= 2 and all(t.strip() == t != "" for t in i.turns) for i in known)
    assert sum(len(i.turns) == 2 for i in known) >= 40
    kinds = Counter(i.category for i in known)
    assert len(kinds) >= 15
    assert max(kinds.values()) <= len(known) / 10


def test_no_instruction_is_another_one_in_other_words():
    firsts = [tuple(words(" ".join(i.turns))) for i in all_instructions()]
    assert len(set(firsts)) == len(firsts)
    openings = Counter(" ".join(f[:5]) for f in firsts)
    assert openings.most_common(1)[0][1] <= 20, "too many begin alike"
    shared = Counter(gram for i in all_instructions() for gram in grams(" ".join(i.turns)))
    assert not [gram for gram, count in shared.items() if count > 1]


def test_instructions_are_drawn_without_repetition_in_an_order_of_the_seed():
    first = bundled_instructions(400, seed=1)
    assert len({i.id for i in first}) == 400
    assert bundled_instructions(400, seed=1) == first
    assert bundled_instructions(400, seed=2) != first
    assert bundled_instructions(10, seed=1) == first[:10]
    assert len({i.category for i in first}) >= 15
    with pytest.raises(ConfigurationError, match=r"mixture\.self_answers\.count is 100000, but \d+ instructions"):
        bundled_instructions(100_000)


def test_no_probe_text_is_an_instruction_or_shares_eight_words_with_one():
    instructed = [turn for i in all_instructions() for turn in i.turns]
    assert not {" ".join(words(t)) for t in instructed} & {" ".join(words(t)) for t in probe_texts()}
    known = set().union(*map(grams, instructed))
    assert not [" ".join(g) for text in probe_texts() for g in grams(text) if g in known]


def test_dialogues_alternate_and_their_answers_are_of_moderate_length():
    dialogues = lines("general_dialogues.jsonl")
    assert len(dialogues) == len({d["id"] for d in dialogues}) == 60
    for dialogue in dialogues:
        assert set(dialogue) == {"id", "category", "messages"}
        roles = [m["role"] for m in dialogue["messages"]]
        assert roles in (["user", "assistant"] * n for n in (1, 2, 3)), dialogue["id"]
        answers = [len(words(m["content"])) for m in dialogue["messages"] if m["role"] == "assistant"]
        assert 20 <= min(answers) <= max(answers) <= 100, dialogue["id"]


CHECK_ARGUMENTS = {
    "contains": {"words"},
    "excludes": {"words"},
    "starts_with": {"text"},
    "ends_with": {"text"},
    "bullets": {"count"},
    "numbered": {"count"},
    "max_words": {"n"},
    "min_words": {"n"},
    "sentences": {"count"},
    "lowercase": set(),
    "uppercase": set(),
    "json": {"keys"},
    "commas_list": {"count"},
    "paragraphs": {"count"},
    "matches": {"regex"},
}


def test_verifiable_instructions_use_the_agreed_checks_and_all_of_them():
    probes = lines("general_instructions.jsonl")
    assert len(probes) == len({p["id"] for p in probes}) == len({p["prompt"] for p in probes}) == 60
    for probe in probes:
        assert set(probe) == {"id", "prompt", "checks"}
        assert probe["checks"]
        for check in probe["checks"]:
            assert set(check) == {"kind"} | CHECK_ARGUMENTS[check["kind"]], probe["id"]
            re.compile(check.get("regex", ""))
    assert {check["kind"] for probe in probes for check in probe["checks"]} == set(CHECK_ARGUMENTS)
