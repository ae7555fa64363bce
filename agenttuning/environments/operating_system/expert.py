"""The expert: one program per skill, which acts on what the last command printed.

A program knows the instruction's names (`goal`) and nothing of the files. Commands come from a small set of idioms;
thoughts are one or two sentences, drawn from several wordings, that repeat the names the command needs. In a share
of the episodes the first command is a plausible mistake (a mistyped path, a missing directory), marked `loss=False`,
which the next thought recognises from the error it caused.
"""

import random
from collections.abc import Callable, Generator
from pathlib import PurePosixPath

from agenttuning.environments.base import Expert, Move, Step
from agenttuning.trajectory import Action

OUTPUT_HEAD = "The output of the OS:\n"
NO_OUTPUT = "The output of the OS is empty."
MISSING = "No such file or directory"

Talk = Generator[Move, Step, str]
"""Part of an expert that ends with the text that its command printed."""


class Hand:
    """Chooses words, makes moves and, once where it is told to, a mistake."""

    def __init__(self, rng: random.Random, mistake: bool) -> None:
        self._rng = rng
        self._mistake = mistake

    def bash(self, thoughts: tuple[str, ...], script: str, slip: str | None = None) -> Talk:
        """Run a script, after a slip of the name `slip` in it where a mistake is due."""
        wrong = self.misspelled(slip) if slip and self.mistake_due() else None
        if slip and wrong:
            yield from self._run(thoughts, script.replace(slip, wrong), loss=False)
            thoughts = (
                f"There is no {wrong}, I mistyped the path. The right one is {slip}.",
                f"I wrote {wrong}, but the problem says {slip}. I will use {slip}.",
            )
        return (yield from self._run(thoughts, script))

    def wrong(self, thoughts: tuple[str, ...], script: str) -> Talk:
        """Run a script that is a mistake."""
        return (yield from self._run(thoughts, script, loss=False))

    def mistake_due(self) -> bool:
        """Whether to make the mistake now; at most once true."""
        due, self._mistake = self._mistake, False
        return due

    def misspelled(self, path: str) -> str:
        """Return `path` with one letter of its last name left out."""
        at = self._rng.randrange(1, len(PurePosixPath(path).stem))
        cut = len(path) - len(PurePosixPath(path).name) + at
        return path[:cut] + path[cut + 1 :]

    def answer(self, thoughts: tuple[str, ...], value: str) -> Move:
        """Return the final answer."""
        return Move(self._rng.choice(thoughts), Action(name="answer", arguments={"answer": value}))

    def finish(self, *thoughts: str) -> Move:
        """Return the end of a task that asked for a change."""
        return Move(self._rng.choice(thoughts), Action(name="finish"))

    def _run(self, thoughts: tuple[str, ...], script: str, loss: bool = True) -> Talk:
        step = yield Move(self._rng.choice(thoughts), Action(name="bash", arguments={"script": script}), loss)
        return "" if step.observation == NO_OUTPUT else step.observation.removeprefix(OUTPUT_HEAD)


def play(goal: dict[str, str], rng: random.Random, mistake: bool) -> Expert:
    """Return the expert for a goal."""
    yield from SKILLS[goal["skill"]](Hand(rng, mistake), goal)


def count_files(hand: Hand, goal: dict[str, str]) -> Expert:
    """Count files by extension below a directory."""
    top, extension = goal["directory"], goal["extension"]
    thoughts = (
        f"I need the number of .{extension} files under {top}. I will list them with find and count the lines.",
        f"I will search {top} for names that end in .{extension} and count them.",
        f"To count the .{extension} files under {top}, I use find and wc.",
    )
    count = yield from hand.bash(thoughts, f'find {top} -name "*.{extension}" | wc -l', slip=top)
    yield hand.answer(
        (
            f"The output is {count}, so there are {count} .{extension} files under {top}.",
            f"find listed {count} files. The answer is {count}.",
        ),
        count,
    )


def _read_at(hand: Hand, path: str, thoughts: tuple[str, ...], command: Callable[[str], str]) -> Talk:
    """Run a command on a file; where it is missing, find it by its name and run the command there."""
    printed = yield from hand.bash(thoughts, command(path), slip=path)
    if MISSING not in printed:
        return printed
    name = PurePosixPath(path).name
    thoughts = (
        f"The file {path} does not exist. I will look for {name} under /root.",
        f"There is no {path}. I will search for {name} under /root with find.",
    )
    found = yield from hand.bash(thoughts, f'find /root -name "{name}"')
    thoughts = (
        f"The file is at {found}. I will use this path.",
        f"find shows {found}, so I run the command there.",
    )
    return (yield from hand.bash(thoughts, command(found)))


def count_lines(hand: Hand, goal: dict[str, str]) -> Expert:
    """Count the lines of a file that have a word."""
    path, word = goal["path"], goal["word"]
    thoughts = (
        f"I need the number of lines with {word} in {path}. I will count them with grep -c.",
        f"I will count the {word} lines in {path} with grep -c.",
        f"grep -c counts the lines of {path} that contain {word}.",
    )
    count = yield from _read_at(hand, path, thoughts, lambda at: f'grep -c "{word}" {at}')
    yield hand.answer(
        (
            f"The output is {count}, so {count} lines contain {word}.",
            f"grep counted {count} lines with {word}. The answer is {count}.",
        ),
        count,
    )


def _value(line: str) -> str:
    """Return what follows the first `=` of a `key=value` line."""
    return line.partition("=")[2].strip()


def _read_key(hand: Hand, path: str, key: str) -> Talk:
    thoughts = (
        f"I need the value of {key} in {path}. I will search for {key} with grep.",
        f"I will look for the line with {key} in {path}.",
        f"The setting {key} is in {path}, so I use grep to show its line.",
    )
    return (yield from _read_at(hand, path, thoughts, lambda at: f'grep "{key}" {at}'))


def read_key(hand: Hand, goal: dict[str, str]) -> Expert:
    """Tell the value of a key."""
    key = goal["key"]
    line = yield from _read_key(hand, goal["path"], key)
    value = _value(line)
    yield hand.answer(
        (
            f"The line is {line}, so the value of {key} is {value}.",
            f"The output shows {line}. The answer is {value}.",
        ),
        value,
    )


def copy_key(hand: Hand, goal: dict[str, str]) -> Expert:
    """Write the value of a key into another file, and look at the result."""
    key, target = goal["key"], goal["target"]
    line = yield from _read_key(hand, goal["path"], key)
    value = _value(line)
    thoughts = (
        f"The line is {line}, so the value is {value}. I will write {value} into {target}.",
        f"The value of {key} is {value}. Now I write {value} to the file {target}.",
    )
    yield from hand.bash(thoughts, f'echo "{value}" > {target}')
    yield from _show(hand, target)
    yield hand.finish(
        f"The file {target} contains {value}. The task is done.", f"{target} holds {value}, so I am done."
    )


def _show(hand: Hand, path: str) -> Talk:
    thoughts = (f"I will check the content of {path}.", f"Let me look at {path} to check it.")
    return (yield from hand.bash(thoughts, f"cat {path}"))


def which_file(hand: Hand, goal: dict[str, str]) -> Expert:
    """Tell which file contains a word."""
    top, word = goal["directory"], goal["word"]
    thoughts = (
        f"I need the file under {top} that contains {word}. I will search with grep -rl.",
        f"I will search all files under {top} for {word} with grep -rl.",
        f"grep -rl lists the files under {top} that contain {word}.",
    )
    path = yield from hand.bash(thoughts, f'grep -rl "{word}" {top}', slip=top)
    yield hand.answer((f"The word {word} is in {path}.", f"grep found {word} in {path}. This is the answer."), path)


def found_lines(hand: Hand, goal: dict[str, str]) -> Expert:
    """Find a file by its name and count its lines."""
    top, name = goal["directory"], goal["name"]
    thoughts = (
        f"First I need to find {name} under {top}.",
        f"I do not know where {name} is, so I search for it under {top} with find.",
    )
    path = yield from hand.bash(thoughts, f'find {top} -name "{name}"', slip=top)
    thoughts = (
        f"The file is at {path}. Now I count its lines with wc -l.",
        f"find shows {path}. I will count the lines of {path}.",
    )
    count = yield from hand.bash(thoughts, f"wc -l < {path}")
    yield hand.answer(
        (f"The file {name} has {count} lines.", f"The output is {count}, so the answer is {count}."), count
    )


def make_note(hand: Hand, goal: dict[str, str]) -> Expert:
    """Make a directory and a file with a text in it, and look at the result."""
    directory, path, note = goal["directory"], goal["path"], goal["note"]
    write = f'echo "{note}" > {path}'
    thoughts: tuple[str, ...] = (
        f"First I create the directory {directory}.",
        f"The directory {directory} is needed first, so I create it with mkdir -p.",
    )
    if hand.mistake_due():
        yield from hand.wrong((f"I will write the text into {path}.",), write)
        thoughts = (f"The directory {directory} does not exist yet. I create it first.",)
    yield from hand.bash(thoughts, f"mkdir -p {directory}")
    thoughts = (
        f'Now I write "{note}" into {path}.',
        f'The directory exists. I will put the text "{note}" into the file {path}.',
    )
    yield from hand.bash(thoughts, write)
    yield from _show(hand, path)
    yield hand.finish(f'The file {path} says "{note}". The task is done.', f"{path} has the right text, so I am done.")


def move_files(hand: Hand, goal: dict[str, str]) -> Expert:
    """Move files by extension into a new directory, and look at it."""
    source, target, extension = goal["source"], goal["target"], goal["extension"]
    move = f"mv {source}/*.{extension} {target}/"
    thoughts: tuple[str, ...] = (
        f"First I create the directory {target}.",
        f"The directory {target} is new, so I create it with mkdir -p.",
    )
    if hand.mistake_due():
        yield from hand.wrong((f"I will move the .{extension} files from {source} to {target}.",), move)
        thoughts = (f"The directory {target} does not exist yet. I create it first.",)
    yield from hand.bash(thoughts, f"mkdir -p {target}")
    thoughts = (
        f"Now I move the .{extension} files from {source} to {target}.",
        f"{target} exists. I will move all .{extension} files of {source} there.",
    )
    yield from hand.bash(thoughts, move)
    thoughts = (f"I will check which files are in {target}.", f"Let me list {target} to check it.")
    yield from hand.bash(thoughts, f"ls {target}")
    yield hand.finish(
        f"The .{extension} files are in {target}. The task is done.",
        f"{target} has the .{extension} files, so I am done.",
    )


def run_script(hand: Hand, goal: dict[str, str]) -> Expert:
    """Run a script and tell what it prints; make it executable where that is refused."""
    path = goal["path"]
    printed = yield from hand.bash((f"I will run {path}.", f"I run the script {path} and read its output."), path, path)
    if "Permission denied" in printed:
        thoughts = (
            f"Permission denied: {path} is not executable. I will use chmod +x.",
            f"The script {path} may not be run yet. I make it executable with chmod +x.",
        )
        yield from hand.bash(thoughts, f"chmod +x {path}")
        thoughts = (f"Now {path} is executable. I will run it again.", f"I run {path} once more.")
        printed = yield from hand.bash(thoughts, path)
    yield hand.answer((f"The script printed {printed}.", f"The output is {printed}, so I answer {printed}."), printed)


def set_key(hand: Hand, goal: dict[str, str]) -> Expert:
    """Find the file with a key, change its value and look at the result."""
    top, key, value = goal["directory"], goal["key"], goal["value"]
    thoughts = (
        f"First I need to find the file in {top} that has {key}.",
        f"I do not know which file in {top} sets {key}, so I search with grep -rl.",
    )
    path = yield from hand.bash(thoughts, f'grep -rl "{key}" {top}', slip=top)
    thoughts = (
        f"The setting {key} is in {path}. I will set {key} to {value} there with sed.",
        f"The file is {path}. Now I change {key} to {value} in {path}.",
    )
    yield from hand.bash(thoughts, f'sed -i "s/{key}=.*/{key}={value}/" {path}')
    thoughts = (f"I will check {key} in {path}.", f"Let me look at the line of {key} in {path}.")
    line = yield from hand.bash(thoughts, f'grep "{key}" {path}')
    yield hand.finish(f"The line is now {line}. The task is done.", f"The file says {line}, so I am done.")


def delete_empty(hand: Hand, goal: dict[str, str]) -> Expert:
    """Delete empty files, and count what is left of them."""
    top = goal["directory"]
    thoughts = (
        f"I will delete the empty files under {top} with find.",
        f"find can delete all empty files under {top}.",
    )
    yield from hand.bash(thoughts, f"find {top} -type f -empty -delete", slip=top)
    thoughts = (
        f"I will count the empty files that are left under {top}.",
        f"Let me check how many empty files are left under {top}.",
    )
    count = yield from hand.bash(thoughts, f"find {top} -type f -empty | wc -l")
    yield hand.finish(
        f"{count} empty files are left under {top}. The task is done.", f"{count} are left, so I am done."
    )


Skill = Callable[[Hand, dict[str, str]], Expert]
SKILLS: dict[str, Skill] = {
    program.__name__: program
    for program in (
        count_files,
        count_lines,
        read_key,
        copy_key,
        which_file,
        found_lines,
        make_note,
        move_files,
        run_script,
        set_key,
        delete_empty,
    )
}
