"""The families of train and test tasks. Each draws a file tree and a wording and computes the answer in Python.

Every name that a solution needs stands in the instruction or in what a command prints. Trees hold distractors:
other extensions, other levels, files with similar content. `FAMILIES` maps a family's name to its maker.
"""

import random
from collections.abc import Callable

from agenttuning.environments.operating_system.draft import Draft, number, state, text
from agenttuning.environments.operating_system.names import (
    EXTENSIONS,
    KEYS,
    LEVELS,
    PHRASES,
    PLACES,
    THINGS,
    TOPICS,
    config,
    log_lines,
    other_keys,
    prose,
    value_of,
)

Maker = Callable[[random.Random], Draft]


def count_files(rng: random.Random) -> Draft:
    """How many files with an extension are below a directory?"""
    top = f"/root/{rng.choice(PLACES)}"
    extension, *others = rng.sample(EXTENSIONS, 3)
    count = rng.randint(2, 12)
    stems = rng.sample(THINGS, count + rng.randint(2, 6))
    directories = [top, *(f"{top}/{topic}" for topic in rng.sample(TOPICS, 3))]
    names = [f"{stem}.{extension if i < count else rng.choice(others)}" for i, stem in enumerate(stems)]
    files = {f"{rng.choice(directories)}/{name}": "" for name in names}
    wording = rng.choice(
        (
            f"How many .{extension} files are there in {top}, including its subdirectories?",
            f"Count the files that end in .{extension} in {top} and all directories below it.",
            f"Tell me the number of .{extension} files anywhere under {top}.",
            f"I want to know how many files under {top} have the extension .{extension}.",
        )
    )
    return Draft(wording, {"skill": "count_files", "directory": top, "extension": extension}, number(count), files)


def _log(rng: random.Random) -> tuple[str, list[str], int]:
    """Return a level, log lines of which some have it, and how many do."""
    level, *others = rng.sample(LEVELS, 3)
    count = rng.randint(2, 19)
    lines = log_lines(rng, count, [level]) + log_lines(rng, rng.randint(5, 15), others)
    rng.shuffle(lines)
    return level, lines, count


def count_lines(rng: random.Random) -> Draft:
    """How many lines of a log have a word?"""
    level, lines, count = _log(rng)
    path = f"/root/{rng.choice(PLACES)}/{rng.choice(TOPICS)}.log"
    wording = rng.choice(
        (
            f"How many lines of {path} contain the word {level}?",
            f"Count the {level} lines in the file {path}.",
            f"In {path}, how many lines have {level} in them?",
            f"Tell me how often a line with {level} appears in {path}.",
        )
    )
    goal = {"skill": "count_lines", "path": path, "word": level}
    return Draft(wording, goal, number(count), {path: "\n".join(lines) + "\n"})


def moved_log(rng: random.Random) -> Draft:
    """The same, but the file is not where the instruction says: it must be found first."""
    level, lines, count = _log(rng)
    said, real = rng.sample(PLACES, 2)
    name = f"{rng.choice(TOPICS)}.log"
    path = f"/root/{said}/{name}"
    files = {
        f"/root/{real}/{rng.choice(THINGS)}/{name}": "\n".join(lines) + "\n",
        f"/root/{said}/{rng.choice(THINGS)}.txt": prose(rng, 2),
    }
    wording = rng.choice(
        (
            f"How many lines of {path} contain the word {level}? The file may have been moved.",
            f"Count the {level} lines in {path}. If it is not there, look for it under /root.",
            f"In {path} (or wherever under /root that file is now), how many lines have {level}?",
        )
    )
    return Draft(wording, {"skill": "count_lines", "path": path, "word": level}, number(count), files)


def read_key(rng: random.Random) -> Draft:
    """What value does a key have in a configuration file?"""
    key = rng.choice(KEYS)
    value = value_of(rng, key)
    path = f"/root/{rng.choice(PLACES)}/{rng.choice(THINGS)}.conf"
    wording = rng.choice(
        (
            f"What is the value of {key} in {path}?",
            f"Look up the setting {key} in the file {path} and answer with its value.",
            f"Which value does {path} give to {key}?",
            f"Read {path} and tell me what {key} is set to.",
        )
    )
    files = {path: config(rng, {key: value, **other_keys(rng, key, rng.randint(3, 6))})}
    return Draft(wording, {"skill": "read_key", "path": path, "key": key}, text(value), files)


def which_file(rng: random.Random) -> Draft:
    """Which file below a directory contains a word?"""
    top = f"/root/{rng.choice(PLACES)}"
    word = rng.choice(THINGS)
    inner = rng.sample(TOPICS, 2)
    stems = rng.sample([t for t in THINGS if t != word], rng.randint(4, 7))
    files = {f"{top}/{rng.choice(inner)}/{stem}.txt": prose(rng, rng.randint(2, 4), word) for stem in stems}
    path = rng.choice(sorted(files))
    lines = [*files[path].splitlines(), f"{rng.choice(PLACES)} {word} {rng.choice(PLACES)}"]
    rng.shuffle(lines)
    files[path] = "\n".join(lines) + "\n"
    wording = rng.choice(
        (
            f"Which file under {top} contains the word {word}? Answer with its full path.",
            f"One file below {top} mentions {word}. Give me the full path of that file.",
            f"Find the file in {top} or its subdirectories that has the word {word} and answer with its path.",
        )
    )
    return Draft(wording, {"skill": "which_file", "directory": top, "word": word}, text(path), files)


def found_lines(rng: random.Random) -> Draft:
    """A file is somewhere below a directory: how many lines has it?"""
    top = f"/root/{rng.choice(PLACES)}"
    name, *others = (f"{stem}.{rng.choice(EXTENSIONS)}" for stem in rng.sample(THINGS, 4))
    inner = rng.sample(TOPICS, 3)
    count = rng.randint(3, 25)
    files = {f"{top}/{rng.choice(inner)}/{other}": prose(rng, rng.randint(1, 4)) for other in others}
    files[f"{top}/{rng.choice(inner)}/{rng.choice(PLACES)}/{name}"] = prose(rng, count)
    wording = rng.choice(
        (
            f"Somewhere under {top} is a file called {name}. How many lines does it have?",
            f"Find {name} below {top} and tell me its number of lines.",
            f"How many lines are in the file {name}? It is in some directory under {top}.",
        )
    )
    return Draft(wording, {"skill": "found_lines", "directory": top, "name": name}, number(count), files)


def make_note(rng: random.Random) -> Draft:
    """Write a text into a new file in a new directory."""
    top = f"/root/{rng.choice(PLACES)}"
    directory = f"{top}/{rng.choice(TOPICS)}"
    path = f"{directory}/{rng.choice(THINGS)}.txt"
    note = rng.choice(PHRASES)
    wording = rng.choice(
        (
            f'Create the directory {directory} and write the text "{note}" into the file {path}.',
            f'Make a new directory {directory}. In it, create {path} with the content "{note}".',
            f'I need a file {path} that says "{note}". Its directory {directory} does not exist yet.',
        )
    )
    goal = {"skill": "make_note", "directory": directory, "path": path, "note": note}
    return Draft(wording, goal, state({path: note}), {f"{top}/{rng.choice(THINGS)}.md": prose(rng, 1)})


def move_files(rng: random.Random) -> Draft:
    """Move all files with an extension into a new directory."""
    source, target = (f"/root/{place}" for place in rng.sample(PLACES, 2))
    extension, *others = rng.sample(EXTENSIONS, 3)
    stems = rng.sample(THINGS, rng.randint(5, 8))
    count = rng.randint(2, 4)
    names = [f"{stem}.{extension if i < count else rng.choice(others)}" for i, stem in enumerate(stems)]
    files = {f"{source}/{name}": f"{rng.choice(PHRASES)}\n" for name in names}
    moved = {path: content for path, content in files.items() if path.endswith(f".{extension}")}
    after = {path.replace(source, target) if path in moved else path: content for path, content in files.items()}
    wording = rng.choice(
        (
            f"Move all .{extension} files from {source} to the new directory {target}. Leave the other files there.",
            f"Create the directory {target} and move every .{extension} file of {source} into it.",
            f"The .{extension} files in {source} belong into {target}, which does not exist yet. Please move them.",
        )
    )
    goal = {"skill": "move_files", "source": source, "target": target, "extension": extension}
    return Draft(wording, goal, state(after, tuple(moved)), files)


def run_script(rng: random.Random) -> Draft:
    """Run a script that is not executable and tell what it prints."""
    path = f"/root/{rng.choice(PLACES)}/{rng.choice(THINGS)}.sh"
    first, second = rng.randint(100, 900), rng.randint(100, 900)
    wording = rng.choice(
        (
            f"Run the script {path} and answer with the number that it prints.",
            f"Execute {path}. Which number does it print?",
            f"What number do you get when you run {path}?",
        )
    )
    files = {path: f"#!/bin/bash\na={first}\nb={second}\necho $((a + b))\n"}
    return Draft(wording, {"skill": "run_script", "path": path}, number(first + second), files)


def set_key(rng: random.Random) -> Draft:
    """Some file below a directory has a key: give it another value."""
    top = f"/root/{rng.choice(PLACES)}"
    key = rng.choice(KEYS)
    old = value_of(rng, key)
    new = value_of(rng, key)
    while new == old:
        new = value_of(rng, key)
    stems = rng.sample(THINGS, 3)
    files = {f"{top}/{stem}.conf": config(rng, other_keys(rng, key, 3)) for stem in stems}
    path = f"{top}/{rng.choice(stems)}.conf"
    before = [*files[path].splitlines(), f"{key}={old}"]
    rng.shuffle(before)
    files[path] = "\n".join(before) + "\n"
    after = {**files, path: files[path].replace(f"{key}={old}", f"{key}={new}")}
    wording = rng.choice(
        (
            f"One of the files in {top} sets {key}. Change its value to {new}.",
            f"Find the file in {top} that has the setting {key} and set it to {new}.",
            f"In {top} there is a file with a line for {key}. Give {key} the value {new} there.",
        )
    )
    return Draft(wording, {"skill": "set_key", "directory": top, "key": key, "value": new}, state(after), files)


def copy_key(rng: random.Random) -> Draft:
    """Write the value of a key into another file."""
    key = rng.choice(KEYS)
    value = value_of(rng, key)
    place = rng.choice(PLACES)
    path = f"/root/{place}/{rng.choice(THINGS)}.conf"
    target = f"/root/{place}/{key}.txt"
    files = {path: config(rng, {key: value, **other_keys(rng, key, rng.randint(2, 5))})}
    wording = rng.choice(
        (
            f"Write the value of {key} from {path} into the file {target}.",
            f"Look up {key} in {path} and save its value in {target}.",
            f"The file {target} shall contain the value that {path} gives to {key}, and nothing else.",
        )
    )
    goal = {"skill": "copy_key", "path": path, "key": key, "target": target}
    return Draft(wording, goal, state({**files, target: value}), files)


def delete_empty(rng: random.Random) -> Draft:
    """Delete the empty files below a directory."""
    top = f"/root/{rng.choice(PLACES)}"
    inner = rng.sample(TOPICS, 2)
    paths = [f"{top}/{rng.choice(inner)}/{s}.{rng.choice(EXTENSIONS)}" for s in rng.sample(THINGS, rng.randint(5, 9))]
    count = rng.randint(2, 4)
    files = {path: "" if i < count else prose(rng, 1) for i, path in enumerate(paths)}
    wording = rng.choice(
        (
            f"Delete all empty files under {top}. Keep the files that have content.",
            f"Some files below {top} are empty. Remove them, and only them.",
            f"Clean up {top} and its subdirectories: remove every file of size zero.",
        )
    )
    expect = state({path: content for path, content in files.items() if content}, tuple(paths[:count]))
    return Draft(wording, {"skill": "delete_empty", "directory": top}, expect, files)


FAMILIES: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        count_files,
        count_lines,
        moved_log,
        read_key,
        which_file,
        found_lines,
        make_note,
        move_files,
        run_script,
        set_key,
        copy_key,
        delete_empty,
    )
}
