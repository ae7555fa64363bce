"""Takes a gold shell program apart, as far as its text allows: comments, a leading `cd`, the stages of a pipeline.

This is no shell parser. Whatever it is not sure of it leaves whole: a program with loops, functions, substitutions,
here-documents or several commands is one step.
"""

import re

READ_ONLY = frozenset(
    [
        "ls",
        "find",
        "grep",
        "egrep",
        "fgrep",
        "zgrep",
        "cat",
        "zcat",
        "head",
        "tail",
        "sort",
        "uniq",
        "wc",
        "cut",
        "awk",
        "gawk",
        "sed",
        "tr",
        "du",
        "df",
        "stat",
        "file",
        "ps",
        "date",
        "echo",
        "printf",
        "nproc",
        "getent",
        "xargs",
        "diff",
        "comm",
        "basename",
        "dirname",
        "realpath",
        "readlink",
        "id",
        "whoami",
        "uname",
        "hostname",
        "env",
        "bc",
        "tac",
        "nl",
        "rev",
        "paste",
        "column",
        "strings",
        "md5sum",
        "sha256sum",
    ]
)
"""Programs that change nothing, so that part of a pipeline of them may be run to look at what it prints."""
_WRITES = re.compile(r"(?:^|\s)-(?:delete|exec|execdir|ok|i\b|i\.\w|-in-place)|>|\btee\b")
_COMPLEX = re.compile(r"<<|\$\(|`|\|\||&&|;|(?<!\|)&(?!\d)|^\s*(?:for|while|if|case|until|function)\b", re.MULTILINE)
_CD = re.compile(r"cd\s+(\S+)\s*(?:&&|;|\n)\s*")
_PATH = re.compile(r"(?<![\w.$*/~])(?:~|\$HOME|\.)?/?(?:[\w.+*?-]+/)*[\w.+*?-]+/?")


def without_comments(program: str) -> str:
    """Return a program without lines that are only comments, and without blank lines at its ends."""
    if "<<" in program:
        return program.strip()
    return "\n".join(line for line in program.splitlines() if not line.lstrip().startswith("#")).strip()


def leading_cd(program: str) -> tuple[str | None, str]:
    """Split `cd DIRECTORY` from the beginning of a program; the directory is None where there is no plain one."""
    match = _CD.match(program)
    if match is None or any(sign in match[1] for sign in "$`*\"'()"):
        return None, program
    return match[1], program[match.end() :].strip()


def stages(program: str) -> list[str]:
    """Return the stages of a program that is one pipeline of read-only programs; else the program as one stage."""
    if "\n" in program or _COMPLEX.search(_unquoted(program)):
        return [program]
    parts = _split(program)
    for part in parts:
        words = part.split()
        if not words or words[0] not in READ_ONLY or _WRITES.search(_unquoted(part)):
            return [program]
        if words[0] == "xargs" and not any(word in READ_ONLY for word in words[1:]):
            return [program]
    return parts


def paths(program: str) -> list[str]:
    """Return the words of a program that look like paths: with a slash or a home sign, in order, each once."""
    found = [word for word in _PATH.findall(_unquoted(program, keep=True)) if "/" in word and word.strip("/.~")]
    return list(dict.fromkeys(found))


def _split(program: str) -> list[str]:
    """Split at bars outside quotes and brackets."""
    parts, start, quote, depth, skip = list[str](), 0, "", 0, False
    for index, sign in enumerate(program):
        if skip:
            skip = False
        elif sign == "\\" and quote != "'":
            skip = True
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "({":
            depth += 1
        elif sign in ")}":
            depth -= 1
        elif sign == "|" and depth == 0:
            parts.append(program[start:index].strip())
            start = index + 1
    return [*parts, program[start:].strip()]


def _unquoted(program: str, *, keep: bool = False) -> str:
    """Return a program with quoted text left out, or with only the quotes left out."""
    without = re.sub(r"\\.", "", program)
    return re.sub(r"['\"]", "", without) if keep else re.sub(r"'[^']*'|\"[^\"$`]*\"", "", without)
