"""Checks of texts: the opening, the worked example, the action grammar and what it says about malformed replies."""

import re

from agenttuning.environments.base import Parsed
from agenttuning.environments.checking.play import Subject
from agenttuning.environments.checking.verdict import Broken
from agenttuning.environments.checking.watch import alive
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

GARBLED = ("", "   \n", "I do not know.", "Action:", "```", '{"name": "act"}', "\x00\ud7ff", "word " * 400, "- [ ] \\n")
SHORTEST_MESSAGE = 25
_WORD = re.compile(r"[^\W\d_]{3,}")


def opening(subject: Subject) -> str:
    """Look at description, first observation and worked example."""
    with subject.make() as environment:
        for task in subject.sample:
            description = environment.description(task)
            if not isinstance(description, str) or not description.strip():
                raise Broken("description() is empty", "state the rules, the action grammar and the limits")
            alive()
            shown = environment.reset(task)
            environment.close()
            if not isinstance(shown, str) or task.instruction.strip() not in shown:
                raise Broken(f"reset() shows {str(shown)[:80]!r}", "let the first observation contain the instruction")
        turns = [turn for turn in environment.demonstration() if turn.role == "assistant"]
        if any(turn.loss is not False for turn in turns):
            raise Broken("the worked example would be trained", "give its assistant turns loss=False")
        for turn in turns:
            environment.parse(turn.content)
    return f"contains the instruction; worked example of {len(turns)} replies"


def round_trip(subject: Subject) -> str:
    """Write replies and read them again."""
    tried = 0
    with subject.make() as environment:
        for thought, action in _canonical(subject):
            for words in (thought, None, "I know: it's 5 > 3.\n\nSo, next — «ça»."):
                try:
                    reply = environment.format(words, action)
                except ValueError:
                    if words == thought:
                        raise
                    continue
                tried += 1
                if (found := environment.parse(reply)) != Parsed(words, action):
                    raise Broken(
                        f"parse(format(...)) gives {found!r:.120} for {words!r:.60}, {action!r:.80}",
                        "parse must give back what format wrote; format raises ValueError for what it cannot write",
                    )
    return f"{tried} replies"


def malformed(subject: Subject) -> str:
    """Send what is no reply."""
    refused = 0
    with subject.make() as environment:
        thought, action = _canonical(subject)[0]
        whole = environment.format(thought, action)
        known = _words(environment.format(None, action))
        for reply in (*GARBLED, whole[: len(whole) // 2], whole.splitlines()[0], whole.swapcase()):
            try:
                parsed = environment.parse(reply)
            except MalformedReply as error:
                refused += 1
                if len(str(error)) < SHORTEST_MESSAGE or not _words(str(error)) & known:
                    raise Broken(
                        f"{reply[:30]!r} is answered with {str(error)[:80]!r}",
                        "say what was wrong and show the expected form, with the grammar's own words",
                    ) from error
            else:
                if not isinstance(parsed, Parsed):
                    raise Broken(f"parse gives {type(parsed).__name__}", "return Parsed(thought, action)")
    if refused == 0:
        raise Broken("every reply parses, also an empty one", "raise MalformedReply for what is no action")
    return f"{refused} refused with a helpful message, none with another exception"


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}


def _canonical(subject: Subject) -> list[tuple[str | None, Action]]:
    """Return thoughts and actions that the grammar expresses: the expert's, or those of the worked example."""
    moves = [move for _, played in subject.pairs for move in played.moves]
    if not moves:
        raise Broken("neither an expert nor a worked example", "give one of them: nothing says how a reply looks")
    return [(move.thought or None, move.action) for move in moves]
