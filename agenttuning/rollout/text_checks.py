"""What can be seen of a reply from its text alone: refusals and degenerate repetition. Pure and deliberately simple."""

import re
from collections import Counter

_REFUSAL = re.compile(
    r"^\W*(?:(?:i'?m|i am) (?:very |really |so )?sorry,?|sorry,?|unfortunately,?|i apologi[sz]e[^.]{0,60}[.,])?"
    r"[\s,]*(?:but )?(?:as an ai(?: language model| assistant)?,? ?)?(?:i )?"
    r"(?:(?:can(?:no|')?t|cannot|can not|(?:am|'?m) (?:not able|unable|not allowed) to|"
    r"won'?t|will not|must decline to|have to decline to|do ?n[o']t feel comfortable) "
    r"(?:be able to |directly )?(?:help|assist|provide|comply|fulfil|do that|do this|answer|complete|continue|"
    r"participate|engage|support|with))",
    re.IGNORECASE,
)
_AS_AN_AI = re.compile(r"^\W*(?:i'?m sorry,? (?:but )?)?as an ai(?: language model| assistant)?\b", re.IGNORECASE)

REPEATED_LINE = 4
"""A line of some length that stands this often in a reply makes it degenerate."""
LEAST_WORDS = 24
"""Shorter replies are not judged by their n-grams."""
LEAST_DISTINCT = 0.5
"""A reply of which fewer 4-grams than this share are distinct is degenerate."""


def is_refusal(text: str) -> bool:
    """Whether a reply begins as chat models word a refusal (`I'm sorry, but I can't help with ...`).

    Only the beginning counts, so that a thought that says what is not possible is no refusal.
    """
    beginning = text.strip()[:200].replace("\u2019", "'")
    return bool(_REFUSAL.match(beginning) or _AS_AN_AI.match(beginning))


def is_degenerate(text: str) -> bool:
    """Whether a reply runs in circles: one line again and again, or few distinct 4-grams."""
    lines = Counter(line for raw in text.splitlines() if len(line := raw.strip()) > 8)
    if lines and max(lines.values()) >= REPEATED_LINE:
        return True
    words = text.split()
    if len(words) < LEAST_WORDS:
        return False
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(set(grams)) / len(grams) < LEAST_DISTINCT
