"""Other readings of an instruction: a reference program with one known slip mended, as a second solution.

A reference written by a model counts `.` and `..`, the line `total`, or a directory itself; ignores case that the
instruction does not ignore, or heeds case that it does; or looks below a directory that the instruction never
names. Each rule mends one of these by its text. Where the mended program gives another answer, instruction and
reference do not say the same, and the task cannot be learned from. The rules find some of what is wrong, not all.
"""

import re
from collections.abc import Callable

from agenttuning.environments.operating_system.pipelines import paths

_CASE = re.compile(r"\bcase|upper|lower", re.IGNORECASE)
_IGNORES = re.compile(
    r"case[- ]?insensitiv|insensitive|ignor\w*(?: the)? case|regardless of case|any case|irrespective of case|"
    r"(?:not|without)[\w ]* case", re.IGNORECASE
)  # fmt: skip
_HEEDS = re.compile(r"case[- ]?sensitiv", re.IGNORECASE)
_GREP = re.compile(r"\b((?:z|e|f)?grep)((?:\s+-[A-Za-z]+)*)")
_LS_ALL = re.compile(r"\bls((?:\s+-[A-Za-z1]+)*)(?=[^|\n]*\|[^\n]*\b(?:wc|grep -c)\b)")
_LS_LONG = re.compile(r"\bls((?:\s+-[A-Za-z1]+)*)(?=[^|\n]*\|\s*wc -l)")
_SUMMED = re.compile(r"\bwc -([lwc])(\s+[^|\n<]*[*{][^|\n<]*)\|\s*awk\s+'\{\s*(\w+)\s*\+=\s*\$1;?\s*\}\s*END")
_XARGS_SUMMED = re.compile(r"\bxargs(?: -0)? wc -([lwc])\s*\|\s*awk\s+'\{\s*(\w+)\s*\+=\s*\$1;?\s*\}\s*END")
_FIND_DIRECTORIES = re.compile(r"\bfind\s+(\S+)(?=[^|\n]*-type d)(?![^|\n]*-mindepth)(?=[^\n]*\bwc -l)")
_FIND_PLACE = re.compile(r"\bfind\s+((?:~|\$HOME|\"\$HOME\")/(\S+))")


def readings(instruction: str, program: str) -> dict[str, str]:
    """Return the programs of other readings by name; only those that differ from `program`."""
    found = {name: rule(instruction, program) for name, rule in RULES.items()}
    return {name: text for name, text in found.items() if text != program}


def dots(instruction: str, program: str) -> str:
    """`ls -a` counts `.` and `..`; `ls -A` does not."""
    if "grep -v" in program:
        return program
    return _LS_ALL.sub(lambda m: "ls" + m[1].replace("a", "A"), program)


def total_line(instruction: str, program: str) -> str:
    """`ls -l | wc -l` counts the line `total`; without `l` there is none."""
    return _LS_LONG.sub(lambda m: "ls" + re.sub(r"\s+-(?=\s|$)", "", m[1].replace("l", "")), program)


def doubled_total(instruction: str, program: str) -> str:
    """The sum over `wc FILES` counts the line `total` too, and is twice the number; one `cat` has no such line."""
    mended = _SUMMED.sub(lambda m: f"cat{m[2]}| wc -{m[1]} | awk '{{{m[3]}+=$1}} END", program)
    return _XARGS_SUMMED.sub(lambda m: f"xargs cat | wc -{m[1]} | awk '{{{m[2]}+=$1}} END", mended)


def directory_itself(instruction: str, program: str) -> str:
    """`find DIR -type d` counts DIR itself; what is inside it does not."""
    return _FIND_DIRECTORIES.sub(lambda m: f"find {m[1]} -mindepth 1", program)


def case_ignored(instruction: str, program: str) -> str:
    """`grep -i` where the instruction says nothing of case, or says that it counts."""
    if _CASE.search(instruction) and not _HEEDS.search(_IGNORES.sub("", instruction)):
        return program
    return _GREP.sub(lambda m: m[1] + re.sub(r"\s+-(?=\s|$)", "", m[2].replace("i", "")), program)


def case_heeded(instruction: str, program: str) -> str:
    """`grep` without `-i` where the instruction says that case does not count."""
    if not _IGNORES.search(instruction) or "tr " in program or "tolower" in program:
        return program
    return _GREP.sub(lambda m: m[0] if "i" in m[2] or "v" in m[2] else f"{m[1]} -i{m[2]}", program)


def unnamed_place(instruction: str, program: str) -> str:
    """`find ~/x` where the instruction names no `x` and speaks of the home directory: all of it is meant."""
    if "home" not in instruction.lower() or len(paths(program)) > 1:
        return program

    def mended(match: re.Match[str]) -> str:
        names = [part for part in match[2].strip("\"'/").split("/") if part]
        return match[0] if any(name in instruction for name in names) else "find ~"

    return _FIND_PLACE.sub(mended, program)


RULES: dict[str, Callable[[str, str], str]] = {
    rule.__name__: rule
    for rule in (dots, total_line, doubled_total, directory_itself, case_ignored, case_heeded, unnamed_place)
}
