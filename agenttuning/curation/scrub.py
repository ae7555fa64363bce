"""Mask secrets and personal data in what is trained and exported.

Found are: e-mail addresses, telephone numbers, public IP addresses, payment card numbers (with a right check digit),
keys and tokens of well-known shapes, passwords in URLs, and private key blocks. Equal values of one trajectory become
the same placeholder, such as `<EMAIL_1>`, in thought, action and observation alike, so the trajectory stays coherent.
What nobody owns is left: private and documentation addresses, example domains, fictional telephone numbers.

A mask is no proof of absence: names, postal addresses and secrets without a shape are not found. The task's own
payload and the evidence, which are never trained, stay as they are.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from agenttuning.trajectory import Trajectory, Turn

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
_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{40,}\b|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}\b|\bAIza[0-9A-Za-z_-]{35}\b"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\b[rs]k_live_[A-Za-z0-9]{16,}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|(?<=://)[^\s/:@]{1,64}:[^\s/:@]{1,128}(?=@)",
    re.DOTALL,
)


def _keep_email(found: str) -> bool:
    return _NOBODYS_DOMAIN.search(found.rpartition("@")[2]) is not None


def _keep_phone(found: str) -> bool:
    return _FICTIONAL.search(found) is not None or sum(map(str.isdigit, found)) < LEAST_DIGITS


def _keep_ip(found: str) -> bool:
    try:
        return not ipaddress.ip_address(found).is_global
    except ValueError:
        return True


def _keep_card(found: str) -> bool:
    digits = [int(c) for c in found if c.isdigit()]
    if digits[0] not in (3, 4, 5, 6) or len(set(digits)) == 1:
        return True
    doubled = [d * 2 - 9 * (d > 4) if place % 2 else d for place, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 != 0


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("SECRET", _SECRET, lambda found: False),
    ("EMAIL", _EMAIL, _keep_email),
    ("CARD", _CARD, _keep_card),
    ("PHONE", _PHONE, _keep_phone),
    ("IP", _IPV4, _keep_ip),
    ("IP", _IPV6, _keep_ip),
)
_HINT = re.compile(
    r"@|-----BEGIN|\d[ .():-]*\d[ .():-]*\d|:[0-9A-Fa-f]|_[A-Za-z0-9]{16}|-[A-Za-z0-9]{10}|AKIA|ASIA|AIza|eyJ"
)


class Masks:
    """The placeholders of one trajectory: equal values get equal ones."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], str] = {}

    def text(self, text: str) -> str:
        """Return the text with what is found replaced."""
        if _HINT.search(text) is None:
            return text
        for kind, pattern, keep in _KINDS:
            text = pattern.sub(partial(self._replace, kind, keep), text)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value with all its strings masked."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        return [self.value(inner) for inner in value] if isinstance(value, list) else value

    def _replace(self, kind: str, keep: Callable[[str], bool], match: re.Match[str]) -> str:
        return match[0] if keep(match[0]) else self._name(kind, match[0])

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
    """Return the trajectory with its turns masked, and how many different values of each kind were."""
    if not any(_HINT.search(text) for turn in trajectory.turns for text in _texts(turn)):
        return trajectory, {}
    masks = Masks()
    turns = tuple(_masked(turn, masks) for turn in trajectory.turns)
    counts = masks.counts()
    return (trajectory.model_copy(update={"turns": turns}), counts) if counts else (trajectory, {})


def _texts(turn: Turn) -> Iterator[str]:
    yield turn.content
    if turn.reasoning:
        yield turn.reasoning
    for call in turn.tool_calls:
        yield call.arguments


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
