"""Mask secrets and personal data in what is trained and exported.

Found are: e-mail addresses, telephone numbers, public IP addresses, payment card numbers and IBANs (with right check
digits), US social security numbers, keys and tokens of well-known shapes, private key blocks, and what is named as a
secret where it stands (`secrets`). What nobody owns is left: private and documentation addresses, versions of four
numbers, example domains, fictional telephone numbers.

Equal values of one trajectory become the same placeholder, such as `<EMAIL_1>`, in the task, thought, action,
observation and evidence alike, so the trajectory stays coherent. A task that holds such a value can then no longer be
set up or graded: curation writes copies, and the stored trajectories stay as they were played. Equal tasks are masked
alike, so attempts at one task still share its id.

A mask is no proof of absence: names, postal addresses and secrets without a shape or a name are not found.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from agenttuning.curation.secrets import NAMED, SECRET, named_secret, names_any
from agenttuning.trajectory import Call, Task, Trajectory, Turn

_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
_NOBODYS_DOMAIN = re.compile(
    r"(?:^|\.)(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost|local|internal|lan)$", re.IGNORECASE
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]\d{2,8}){1,4}|\+\d{10,14}"
    r"|(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4})(?![\w.-]*\d)"
)
LEAST_DIGITS = 8
"""Of a telephone number: `+1 23 45` is arithmetic."""
_FICTIONAL = re.compile(r"555[ .-]?01\d\d$")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){3,7}(?::?[0-9A-Fa-f]{1,4}){1,4}(?![\w:])")
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d.-]*\d)")
_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|\.\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_VERSION_BEFORE = re.compile(
    r"(?:\bv(?:er(?:sion)?)?\.?[ :=]{0,2}|(?i:\bversions?\W{1,3}|\brelease\s)"
    r"|\w[_-]|(?<!tcp)(?<!udp)(?<=\w)/|\w[=<>~]=\s?)$"
)
_VERSION_AFTER = re.compile(
    r"\s(?:(?:is |was |are )?(?:already )?(?:installed|released)|or (?:later|newer|higher)|and (?:above|later|newer)"
    r"|amd64|arm64|i386|all\b|noarch|x86_64)"
)
"""What stands beside a version of four numbers: `nginx 1.18.0.2 installed`, `nginx/1.18.0.2`."""
NEAR = 24
"""Characters beside an address that are looked at."""


def _keep_email(match: re.Match[str]) -> bool:
    found = match[0]
    return _NOBODYS_DOMAIN.search(found.rpartition("@")[2]) is not None


def _keep_phone(match: re.Match[str]) -> bool:
    found = match[0]
    return _FICTIONAL.search(found) is not None or sum(map(str.isdigit, found)) < LEAST_DIGITS


def _keep_ip(match: re.Match[str]) -> bool:
    try:
        if not ipaddress.ip_address(match[0]).is_global:
            return True
    except ValueError:
        return True
    start, end = match.span()
    before, after = match.string[max(0, start - NEAR) : start], match.string[end : end + NEAR]
    return _VERSION_BEFORE.search(before) is not None or _VERSION_AFTER.match(after) is not None


def _keep_card(match: re.Match[str]) -> bool:
    digits = [int(c) for c in match[0] if c.isdigit()]
    if digits[0] not in (3, 4, 5, 6) or len(set(digits)) == 1:
        return True
    doubled = [d * 2 - 9 * (d > 4) if place % 2 else d for place, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 != 0


def _keep_iban(match: re.Match[str]) -> bool:
    found = match[0].replace(" ", "")
    turned = "".join(str(int(c, 36)) for c in found[4:] + found[:4])
    return not 15 <= len(found) <= 34 or int(turned) % 97 != 1


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("SECRET", SECRET, lambda match: False),
    ("SECRET", NAMED, lambda match: not named_secret(match)),
    ("EMAIL", _EMAIL, _keep_email),
    ("IBAN", _IBAN, _keep_iban),
    ("CARD", _CARD, _keep_card),
    ("SSN", _SSN, lambda match: False),
    ("PHONE", _PHONE, _keep_phone),
    ("IP", _IPV4, _keep_ip),
    ("IP", _IPV6, _keep_ip),
)
_HINT = re.compile(
    r"@|-----BEGIN|\d[ .():-]*\d[ .():-]*\d|:[0-9A-Fa-f]|_[A-Za-z0-9]{16}|-[A-Za-z0-9]{10}|AKIA|ASIA|AIza|eyJ"
)


_SHAPES = tuple(kind for kind in _KINDS if kind[1] is not NAMED)


def _hinted(text: str) -> bool:
    return _HINT.search(text) is not None or names_any(text)


class Masks:
    """The placeholders of one trajectory: equal values get equal ones."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], str] = {}

    def text(self, text: str) -> str:
        """Return the text with what is found replaced."""
        if not _hinted(text):
            return text
        for kind, pattern, keep in _KINDS if names_any(text) else _SHAPES:
            text = pattern.sub(partial(self._replace, kind, keep), text)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value with all its strings masked."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        return [self.value(inner) for inner in value] if isinstance(value, list) else value

    def _replace(self, kind: str, keep: Callable[[re.Match[str]], bool], match: re.Match[str]) -> str:
        if keep(match):
            return match[0]
        group = match.lastindex or 0
        start, end = match.start(), match.end()
        found = match.string[start : match.start(group)], match.string[match.end(group) : end]
        return found[0] + self._name(kind, match[group]) + found[1]

    def _name(self, kind: str, found: str) -> str:
        known = self._given.get((kind, found))
        if known is None:
            number = 1 + sum(1 for other, _ in self._given if other == kind)
            known = self._given[kind, found] = f"<{kind}_{number}>"
        return known

    def counts(self) -> dict[str, int]:
        """Return how many different values of each kind were masked."""
        return dict(sorted(Counter(kind.lower() for kind, _ in self._given).items()))


def scrub(trajectory: Trajectory) -> tuple[Trajectory, dict[str, int]]:
    """Return the trajectory with its texts masked, and how many different values of each kind were."""
    if not any(map(_hinted, _texts(trajectory))):
        return trajectory, {}
    masks = Masks()
    # The task comes first, so that equal tasks get equal masks whatever their episodes hold.
    update = {
        "task": _masked_task(trajectory.task, masks),
        "turns": tuple(_masked(turn, masks) for turn in trajectory.turns),
        "evidence": masks.value(trajectory.evidence),
        "diagnostics": masks.value(trajectory.diagnostics),
    }
    counts = masks.counts()
    if not counts:
        return trajectory, {}
    changed = {i for i, turn in enumerate(trajectory.turns) if turn != update["turns"][i]}
    update["calls"] = tuple(_without_tokens(call) if call.turn in changed else call for call in trajectory.calls)
    return trajectory.model_copy(update=update), counts


def scrubbed_text(text: str) -> str:
    """Return a text of its own, such as a reason, masked."""
    return Masks().text(text)


def _texts(trajectory: Trajectory) -> Iterator[str]:
    for turn in trajectory.turns:
        yield turn.content
        if turn.reasoning:
            yield turn.reasoning
        for call in turn.tool_calls:
            yield call.arguments
    yield trajectory.task.instruction
    yield from _strings([trajectory.task.payload, trajectory.evidence, trajectory.diagnostics])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _masked_task(task: Task, masks: Masks) -> Task:
    texts = {"instruction": masks.text(task.instruction), "payload": masks.value(task.payload)}
    # A changed copy must not carry the id that its original has worked out.
    return Task.model_validate({**task.model_dump(), **texts})


def _without_tokens(call: Call) -> Call:
    """Return a call without the tokens of its reply, which spell what was masked."""
    return call.model_copy(update={"token_ids": None, "logprobs": None, "tokenizer": None})


def _masked(turn: Turn, masks: Masks) -> Turn:
    update: dict[str, Any] = {"content": masks.text(turn.content)}
    for name in ("thought", "reasoning"):
        if (text := getattr(turn, name)) is not None:
            update[name] = masks.text(text)
    if turn.action is not None:
        update["action"] = turn.action.model_copy(update={"arguments": masks.value(turn.action.arguments)})
    if turn.tool_calls:
        calls = (c.model_copy(update={"arguments": masks.text(c.arguments)}) for c in turn.tool_calls)
        update["tool_calls"] = tuple(calls)
    return turn.model_copy(update=update)
