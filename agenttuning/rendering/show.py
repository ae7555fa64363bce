"""A rendered conversation for the eye: trained tokens green, everything else grey."""

from itertools import groupby
from typing import Any

from agenttuning.rendering.pieces import Rendered

TRAINED, CONTEXT, RESET = "\x1b[1;32m", "\x1b[90m", "\x1b[0m"


def coloured(rendered: Rendered, tokenizer: Any) -> str:
    """Return the text with ANSI colours, control tokens included, and a last line that counts.

    Escape characters of the text itself are shown as `␛`, so that a stored observation cannot drive the terminal.
    """
    ids, mask = rendered.ids.tolist(), rendered.mask.tolist()
    out, start = [], 0
    for trained, group in groupby(mask):
        stop = start + len(list(group))
        text = _decode(tokenizer, ids, start, stop).replace("\x1b", "␛")
        out.append((TRAINED if trained else CONTEXT) + text + RESET)
        start = stop
    supervised = sum(mask)
    share = supervised / len(mask) if mask else 0.0
    return "".join(out) + f"\n{len(ids)} tokens, {supervised} of them trained ({share:.0%})"


def _decode(tokenizer: Any, ids: list[int], start: int, stop: int) -> str:
    """Decode `ids[start:stop]` behind the token before it: alone, some tokenizers drop a leading space."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    lead = ids[max(start - 1, 0) : start]
    before = tokenizer.decode(lead, **options) if lead else ""
    text = str(tokenizer.decode([*lead, *ids[start:stop]], **options))
    return text.removeprefix(before)
