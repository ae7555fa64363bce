"""The expert of tasks that come with a gold program: executes it in steps and says what each step shows.

It looks first (at the directory that the program goes to, at the names that the instruction does not give, at what
the first stage of a pipeline prints), then runs the whole program, then answers with what was printed. Its thoughts
cite the instruction and the outputs so far, and nothing else of the program: a name that was never shown is not said.
"""

import random
import re

from agenttuning.environments.base import Expert, Move
from agenttuning.environments.operating_system.expert import MISSING, NO_OUTPUT, OUTPUT_HEAD, Hand, Talk
from agenttuning.environments.operating_system.pipelines import READ_ONLY, leading_cd, paths, stages, without_comments
from agenttuning.trajectory import Action

_NAME = re.compile(r"[A-Za-z_]{4,}")
"""Part of a path that a letter may be left out of."""
NOT_FOUND = "command not found"
LINE_SHOWN = 60
"""Longest piece of an output that a thought cites."""
_COUNTS = (
    (re.compile(r"wc -l\s*$"), "count the lines"),
    (re.compile(r"wc -w\s*$"), "count the words"),
    (re.compile(r"wc -[cm]\s*$"), "count the characters"),
    (re.compile(r"grep\b[^|]*\s-\w*c"), "count the lines that match"),
    (re.compile(r"\buniq\b|sort -u"), "keep each one once"),
    (re.compile(r"\bdu\b"), "take the sizes"),
    (re.compile(r"\bawk\b"), "work it out with awk"),
    (re.compile(r"\bsort\b"), "sort them"),
)


def follow(instruction: str, program: str, answers: bool, rng: random.Random, mistake: bool) -> Expert:
    """Return the expert of a gold program.

    Args:
        instruction: what the task asks, the source of the names that thoughts may say.
        program: the gold program.
        answers: what the program prints is the answer; else the program makes the change that is asked for.
        rng: chooses words and the mistake.
        mistake: begin with a mistyped path, where the instruction names one.
    """
    hand = _Follower(rng, mistake, instruction)
    rest = without_comments(program)
    where, after = leading_cd(rest)
    if where is not None and after:
        yield from hand.enter(where)
        rest = after
    parts = stages(rest)
    known = hand.knows_all(rest)
    if not known and where is None:
        yield from hand.explore()
    if len(parts) > 1 and answers:
        yield from hand.look(parts[0], " | ".join(parts[1:]))
    printed = yield from hand.work(rest, [part.split()[0] for part in parts])
    if not answers:
        yield hand.finish("The command ran, so the change is made.", "All that was asked for is done.")
        return
    yield hand.answer(
        (
            f"The output is {_short(printed)}, so I answer {_short(printed)}.",
            f"The command printed {_short(printed)}. That is the answer.",
            f"The result is {_short(printed)}, which is what the problem asks for.",
        ),
        printed.strip(),
    )


class _Follower(Hand):
    """Makes moves, and keeps what was shown."""

    def __init__(self, rng: random.Random, mistake: bool, instruction: str) -> None:
        super().__init__(rng, mistake)
        self._draw = rng
        self._shown = instruction

    def knows(self, path: str) -> bool:
        """Whether every name of a path was shown; of a pattern, what stands beside its stars."""
        names = (piece for part in path.split("/") for piece in re.split(r"[*?]+", part))
        return all(name in self._shown for name in names if name.strip(".~"))

    def knows_all(self, program: str) -> bool:
        return all(self.knows(path) for path in paths(program))

    def enter(self, where: str) -> Talk:
        """Go to the directory that the program goes to, and list it."""
        if self.knows(where):
            thoughts: tuple[str, ...] = (
                f"I go to {where} first and look at what is there.",
                f"The problem is about {where}, so I change to it and list it.",
                f"First I look at the files in {where}.",
            )
        else:
            yield from self.explore()
            if self.knows(where):
                thoughts = (
                    f"There is {where}. I go there and list it.",
                    f"The listing shows {where}, so I look there.",
                )
            else:
                thoughts = ("I change to the directory of the files and list it.", "I look where the files are.")
        return (yield from self._try(thoughts, f"cd {where}\nls -A", where))

    def explore(self) -> Talk:
        """List what is in the home directory, where the instruction does not name all that the program needs."""
        thoughts = (
            "The problem does not name every file, so I first look at what is in my home directory.",
            "I do not know the names of the files yet. I list my home directory with its subdirectories.",
            "First I look around: what is in the home directory?",
        )
        return (yield from self._say(thoughts, "find ~ -maxdepth 2 -not -name '.*' | head -n 20"))

    def look(self, first: str, then: str) -> Talk:
        """Run the first stage of a pipeline alone."""
        known = [path for path in paths(first) if self.knows(path)]
        place = f" in {known[0]}" if known else ""
        program = first.split()[0]
        thoughts = (
            f"I start with what {program} finds{place}.",
            f"Before I {_purpose(then)}, I look at what {program} prints{place}.",
            f"First I run {program} alone, to see what there is{place}.",
        )
        return (yield from self._try(thoughts, f"{first} | head -n 8", known[0] if known else None))

    def work(self, program: str, tools: list[str]) -> Talk:
        """Run the whole program; `tools` are the programs of its stages, the first of which was looked at."""
        purpose = _purpose(program)
        if len(tools) == 1:
            known = [path for path in paths(program) if self.knows(path)]
            place = f" for {known[0]}" if known else ""
            thoughts: tuple[str, ...] = (
                f"Now I {purpose}{place}.",
                f"This needs one command: I {purpose}{place}.",
                f"I {purpose}{place} as the problem says.",
            )
            return (yield from self._try(thoughts, _apart_if_it_exits(program), known[0] if known else None))
        seen = self._last
        later = list(dict.fromkeys(tools[1:]))
        then = f"{', '.join(later[:-1])} and {later[-1]}" if len(later) > 1 else later[0]
        if seen == NO_OUTPUT:
            thoughts = (
                f"It prints nothing. I still {purpose} with {then}, to be sure.",
                f"Nothing is listed. I {purpose} with {then}.",
            )
        else:
            sample = _short(seen.splitlines()[0])
            thoughts = (
                f"It shows lines such as `{sample}`. Now I pipe them through {then} to {purpose}.",
                f"The first line is `{sample}`. With {then} I {purpose}.",
                f"That is what I need: `{sample}` and the like. I add {then} and {purpose}.",
                f"Lines like `{sample}` come out of {tools[0]}; {then} can {purpose}.",
            )
        return (yield from self._say(thoughts, _apart_if_it_exits(program)))

    def _try(self, thoughts: tuple[str, ...], script: str, slip: str | None) -> Talk:
        """Run a script, after a mistyped path or program where a mistake is due."""
        words = [match.span() for match in _NAME.finditer(slip or "")]
        program = script.split()[0]
        if slip and slip in script and words and self.mistake_due():
            wrong = self._without_a_letter(slip, *max(words, key=lambda span: span[1] - span[0]))
            printed = yield from self._say(thoughts, script.replace(slip, wrong), loss=False)
            if MISSING in printed:
                thoughts = (
                    f"There is no {wrong}, I mistyped it. The right name is {slip}.",
                    f"{wrong} does not exist: I left out a letter. I run it again with {slip}.",
                )
            else:
                thoughts = (f"I wrote {wrong} in place of {slip}. I run it again.",)
        elif program in READ_ONLY and len(program) > 2 and self.mistake_due():
            wrong = self._without_a_letter(program, 0, len(program))
            printed = yield from self._say(thoughts, wrong + script.removeprefix(program), loss=False)
            if NOT_FOUND in printed:
                thoughts = (
                    f"There is no command {wrong}: I meant {program}.",
                    f"{wrong} is a typing error. The command is {program}.",
                )
            else:
                thoughts = (f"I typed {wrong} in place of {program}. I run it again.",)
        return (yield from self._say(thoughts, script))

    def _without_a_letter(self, text: str, start: int, end: int) -> str:
        """Return a text without one of the letters between `start` and `end`, the first of them aside."""
        at = self._draw.randrange(start + 1, end)
        return text[:at] + text[at + 1 :]

    def _say(self, thoughts: tuple[str, ...], script: str, *, loss: bool = True) -> Talk:
        thought = self._draw.choice(thoughts)
        step = yield Move(thought, Action(name="bash", arguments={"script": script}), loss)
        self._last = step.observation.removeprefix(OUTPUT_HEAD)
        self._shown += "\n" + self._last
        return "" if step.observation == NO_OUTPUT else self._last

    _last = NO_OUTPUT


def _purpose(program: str) -> str:
    """Say what the end of a program does."""
    last = program.rstrip().splitlines()[-1] if program.strip() else ""
    for text in (last, program):
        for pattern, words in _COUNTS:
            if pattern.search(text):
                return words
    return "get the result"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LINE_SHOWN else line[: LINE_SHOWN - 3] + "..."


def _apart_if_it_exits(program: str) -> str:
    """A program that exits, or that stops at errors, would end the shell: such a one gets a shell of its own."""
    return f"(\n{program}\n)" if re.search(r"\b(?:exit|set -\w*e)\b", program) else program
