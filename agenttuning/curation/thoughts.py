"""Two rules about thoughts: hindsight, and misalignment of thought and task.

*Hindsight*: a thought states what an agent cannot know at that point. Thoughts that were written onto a known solution
do so. Three kinds are found: it knows that its answer is the expected one; it cites evidence, a hint or a reference
that nobody showed; before it has done anything, it reports what was done or found.

*Misalignment*: a thought speaks of another task. Its own words (those that are neither everyday words nor in the rules
of the environment) hardly occur in the task or in anything shown so far; or it names files, and none of them does.

Both are lexical and know English only. They read what is trained: a turn without loss teaches nothing.
docs/curation.md has their precision and recall on labelled records.
"""

import re
from functools import cache, lru_cache
from importlib.resources import files

from agenttuning.curation.steps import Objection, canonical_action, first_task_turn, own_turns
from agenttuning.curation.words import stem, stems
from agenttuning.recipe import Recipe
from agenttuning.trajectory import Trajectory, Turn

_GOLD = r"(?:expected|reference|gold(?:en)?|ground[- ]truth)"
"""What only a grader has."""
_STATED = r"(?:provided|given|desired|known|official|annotated|labell?ed)"
"""What a task may state too: a colour or a size may be the desired one, an answer may not."""
_ANSWER = r"(?:\w+\s+)?(?:answers?|results?|outputs?|solutions?|values?|records?|rows?|quer(?:y|ies)|sql|labels?)\b"
_FINAL = r"(?:\w+\s+)?(?:answers?|solutions?)\b"
_HOPE = r"(?<!should )(?<!will )(?<!would )(?<!may )(?<!might )(?<!could )(?<!can )(?<!must )(?<!to )(?<!not )"
_EXPECTED = re.compile(
    rf"{_HOPE}\b(?:return(?:ed|s)|gave|gives|produced|produces|yield(?:ed|s)|shows?|showed|obtained|got)\s+"
    rf"(?:(?:exactly|indeed|just)\s+)?(?:the|our|my)\s+(?:{_GOLD}\s|desired\s+{_ANSWER})"
    rf"|{_HOPE}\b(?:match(?:es|ed)?|agree[sd]?\s+with|equal(?:s|led)?|confirms?|(?:is|are)\s+(?:consistent\s+with|"
    rf"the\s+same\s+as|identical\s+to))\s+(?:exactly\s+)?(?:the|our)\s+(?:{_GOLD}\s+{_ANSWER}|{_STATED}\s+{_FINAL})"
    rf"|\bas\s+(?:given|stated)\s+in\s+the\s+(?:reference|expected|gold|correct)\b"
    rf"|\b(?:the|this)\s+(?:answer|result|output)\s+is\s+(?:the\s+)?(?:expected|reference|gold)\s+(?:one|answer)\b",
    re.IGNORECASE,
)
_EVIDENCE = re.compile(
    r"\b(?:the|given|provided|external)\s+(evidence|hint|annotation|reference|explanation|ground[- ]truth|"
    r"answer[- ]key)s?(?:\s+(?:answer|solution|query|sql|knowledge))?"
    r"(?:\s+(?:provided|given|above))?,?\s+(?:states?|says?|tells?|mentions?|indicates?|specif(?:y|ies)|shows?|is|that)\b"
    r"|\b(?:based\s+on|according\s+to|as\s+(?:per|given\s+by|stated\s+in))\s+the\s+(?:given\s+|provided\s+|external\s+)?"
    r"(evidence|hint|annotation|reference|ground[- ]truth|answer[- ]key)\b",
    re.IGNORECASE,
)
_DONE = re.compile(
    r"\b(?:has|have)\s+been\s+(?!(?:asked|given|instructed|provided|requested|required|supposed|tasked|told)\b)"
    r"(?:successfully\s+)?(?:\w+ed|made|set|written|put|sent|built)\b"
    r"|\b(?:record|row|entry|file|table|item|user)s?\s+(?:was\s+|were\s+)?(?:successfully\s+)?"
    r"(?:created|inserted|added|updated|deleted|removed)\b"
    r"|\bsuccessfully\s+\w+ed\b|^\s*(?:Inserted|Updated|Deleted|Removed|Created|Added)\b",
)
_FOUND = re.compile(
    r"\b(?:there\s+(?:are|is|were|was)|the\s+(?:answer|count|total|number|result|average|mean|sum|percentage|maximum|"
    r"minimum)[^.;]{0,60}?\s(?:is|was|are))\s+(?:exactly\s+|only\s+)?(\d+(?:\.\d+)?)\b"
    r"(?!\s+(?:\w+\s+)?(?:cases|checks|conditions|ideas|options|parts|points|possibilities|reasons|stages|steps|"
    r"things|ways)\b)",
    re.IGNORECASE,
)
_OPEN = re.compile(
    r"\b(?:if|whether|may|might|must|should|would|could|will|once|after|until|when|which|who|whose|what|how\s+many)\b",
    re.IGNORECASE,
)
"""Words after which a sentence asks, supposes or plans, and so reports nothing."""
_MAYBE = re.compile(r"\b(?:maybe|perhaps|possibly|probably)\b", re.IGNORECASE)
"""Words that make a supposition of a sentence wherever they stand."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")


def hindsight(trajectory: Trajectory, recipe: Recipe) -> Objection | None:
    """Object to trained thoughts that know what the agent cannot know yet."""
    own = own_turns(trajectory)
    bad: dict[int, str] = {}
    for index in own:
        turn = trajectory.turns[index]
        if turn.loss and (found := _known_too_early(spoken_thought(turn), trajectory.turns[:index], index == own[0])):
            bad[index] = found
    if not bad:
        return None
    return Objection(f"turn {min(bad)} {bad[min(bad)]}", tuple(sorted(bad)))


def _known_too_early(thought: str, before: tuple[Turn, ...], first: bool) -> str | None:
    if found := _EXPECTED.search(thought):
        return f"knows what was expected: {_short(thought, found)}"
    if found := _EVIDENCE.search(thought):
        cited = next(group for group in found.groups() if group).lower()
        if not any(cited in turn.content.lower() for turn in before if turn.role != "assistant"):
            return f"cites what was never shown: {_short(thought, found)}"
    if not first:
        return None
    plain = _QUOTED.sub("''", thought)
    if (found := _DONE.search(plain)) and not _supposed(plain, found):
        told = any(re.search(rf"\b{re.escape(found[0].split()[-1])}\b", t.content, re.I) for t in before[-1:])
        if not told:
            return f"reports what was not done yet: {_short(plain, found)}"
    if (found := _FOUND.search(thought)) and not _supposed(thought, found):
        shown = any(re.search(rf"(?<![\d.]){re.escape(found[1])}(?![\d.]*\d)", turn.content) for turn in before)
        if not shown:
            return f"states a result before any was seen: {_short(thought, found)}"
    return None


def _supposed(text: str, found: re.Match[str]) -> bool:
    """Whether the sentence around a match asks, supposes or plans."""
    start = 1 + max(text.rfind(mark, 0, found.start()) for mark in (". ", "; ", "\n"))
    ends = [end for mark in (". ", "; ", "\n") if (end := text.find(mark, found.end())) >= 0]
    sentence = text[start : min(ends, default=len(text))]
    return _MAYBE.search(sentence) is not None or _OPEN.search(text[start : found.start()]) is not None


def spoken_thought(turn: Turn) -> str:
    """Return the turn's thought; where it was not parsed and carries no call, its text."""
    if turn.thought is not None:
        return turn.thought
    if turn.reasoning is not None:
        return turn.reasoning
    return "" if turn.action is not None else turn.content


def _short(text: str, found: re.Match[str]) -> str:
    start, end = max(0, found.start() - 15), min(len(text), found.end() + 25)
    return repr(" ".join(text[start:end].split()))


LEAST_WORDS = 3
"""A thought with fewer words of its own is not judged: `I look.` fits every task."""
LEAST_WORDS_FIRST = 2
"""The same for the first thought, which speaks of the task and not of how to go on."""
LEAST_SHARE = 0.2
"""Least share of a thought's own words that must have been shown."""
_PATH = r"(?<![\w/])~?(?:/[\w.-]*\w)+"
_NO_ENDING = "com|org|net|de|uk|co|the|so|and|that|it|is|in|then|to"
_FILE = re.compile(
    rf"(?<![\w.])\.[A-Za-z]\w{{1,4}}\b|{_PATH}"
    rf"|(?<![\w.-])[A-Za-z_]\w[\w-]*\.(?!(?:{_NO_ENDING})\b)[a-z]{{2,4}}\b(?![.(]\w)"
)
"""A file's ending, path or name. Other words fit many tasks about files; these say which files are meant."""
_NAMED = {"db": re.compile(_PATH), "kg": re.compile(_PATH)}
"""Where dotted names are columns and relations, a path alone names a file."""


def misalignment(trajectory: Trajectory, recipe: Recipe) -> Objection | None:
    """Object to trained thoughts whose own words hardly occur in the task or in what was shown so far."""
    own = own_turns(trajectory)
    if not own:
        return None
    start = first_task_turn(trajectory)
    rules = "\n".join(turn.content for turn in trajectory.turns[:start])
    neutral = _everyday_and(rules)
    shown = {*stems(trajectory.task.instruction)}
    bad: dict[int, str] = {}
    since = start
    for index in own:
        for turn in trajectory.turns[since:index]:
            shown.update(stems(_told(turn)))
        since = index
        turn = trajectory.turns[index]
        if index + 1 < len(trajectory.turns):
            # The environment took the action beside the thought; one that nothing answers may be as strange as it.
            shown.update(stems(_told(turn)))
        if not turn.loss:
            continue
        specific = {word for word in stems(spoken_thought(turn)) if word not in neutral and len(word) > 2}
        known = {word for word in specific if word in shown}
        least = LEAST_WORDS_FIRST if index == own[0] else LEAST_WORDS
        if len(specific) >= least and len(known) <= LEAST_SHARE * len(specific):
            strange = ", ".join(sorted(specific - known)[:6])
            bad[index] = f"speaks of what was not shown ({len(known)} of {len(specific)} words were): {strange}"
        elif strange := _other_files(trajectory, index):
            bad[index] = f"names no file that was shown: {strange}"
    if not bad:
        return None
    return Objection(f"the thought of turn {min(bad)} {bad[min(bad)]}", tuple(sorted(bad)))


def _other_files(trajectory: Trajectory, index: int) -> str:
    """Return the files that a thought names, where neither the task nor what was told so far has one of them."""
    turns = trajectory.turns
    pattern = _NAMED.get(trajectory.task.environment, _FILE)
    named = {name.casefold() for name in pattern.findall(spoken_thought(turns[index]))}
    if not named:
        return ""
    before = turns[: index + (index + 1 < len(turns))]
    told = "\n".join([trajectory.task.instruction, *map(_told, before)]).casefold()
    # A task may say `text files (txt)` or `the file passwd`.
    shown = any(name.rpartition("/")[2].lstrip(".") in told for name in named)
    return "" if shown else ", ".join(sorted(named)[:6])


def _told(turn: Turn) -> str:
    """Return what a turn adds to what was shown: an observation's text, an agent's action but not its thought."""
    return turn.content if turn.role != "assistant" else canonical_action(turn).decode(errors="replace")


@lru_cache(maxsize=64)
def _everyday_and(rules: str) -> frozenset[str]:
    return _everyday() | frozenset(stems(rules))


@cache
def _everyday() -> frozenset[str]:
    """Return the stems of words that fit every task: English function words, and the talk of acting and of tools."""
    text = files("agenttuning.curation").joinpath("everyday.txt").read_text(encoding="utf-8")
    return frozenset(map(stem, text.split()))
