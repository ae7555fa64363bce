"""Any other chat template, proven item by item: the template itself writes the text, and its prefixes show the spans.

For every assistant turn the text of what came before with the generation prompt must be a prefix of the text up to
that turn's end token, and that a prefix of the whole. Then the difference is exactly what the model generates. What a
template rewrites or leaves out (thoughts stripped from earlier turns, tool calls it does not know) breaks a prefix or
misses in the text, and the item is refused. What it writes behind the end token of a conversation's last turn (Phi-3 a
token of its own, the first Llama-3 templates a generation prompt that nobody asked for) is there once and not trained.

Control tokens inside contents are swapped for placeholders before the template sees them and put back afterwards as
plain text.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.rendering.pieces import Piece, message
from agenttuning.trajectory import Turn

OPEN, CLOSE = "\U000f0a0a", "\U000f0a0b"
"""Private-use code points around a placeholder's number."""


@dataclass(frozen=True)
class Template:
    """A tokenizer's own chat template.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        end: the control token that ends an assistant turn; found by `find_end`.
    """

    tokenizer: Any = field(repr=False)
    end: str
    name: str = "template"

    def pieces(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = (), generate: bool = False
    ) -> list[Piece]:
        """Write turns down as the template does.

        Raises:
            DataError: the template refuses a turn, rewrites an earlier one or leaves something out.
        """
        specials = special_tokens(self.tokenizer)
        messages = [_protect(encode_message(t, n), specials, f"turn {n}") for n, t in enumerate(turns)]
        tools = _protect(list(tools), specials, "tools")

        def text(count: int, generate: bool) -> str:
            return apply(self.tokenizer, messages[:count], tools, generate)

        whole = text(len(turns), generate)
        _prove_complete(whole, messages, tools)
        out: list[Piece] = []
        done = 0
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            before, after = text(number, True), text(number + 1, False)
            spoken, end, _ = after.removeprefix(before).rpartition(self.end)
            if not end:
                raise DataError(f"turn {number}: the chat template does not end this turn with {self.end!r}")
            if not (after.startswith(before) and whole.startswith(before + spoken + end)):
                raise DataError(
                    f"turn {number}: the chat template writes this turn differently once more turns follow, so what "
                    "was generated and what is trained would differ; use a model whose template keeps earlier turns"
                )
            trained = bool(turn.loss)
            out += _split(whole[done : len(before)], specials, trained=False)
            said = list(_split(spoken, specials, trained)) or [Piece("")]
            out.append(Piece(said[0].text, said[0].control, trained, cut=True))
            out += [*said[1:], Piece(end, control=True, trained=trained)]
            done = len(before + spoken + end)
        out += _split(whole[done:], specials, trained=False)
        return out


def apply(tokenizer: Any, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]], generate: bool) -> str:
    """Return the template's text.

    Raises:
        DataError: the template raises; its own words are passed on.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, add_generation_prompt=generate, tokenize=False
        )
    except (TemplateError, TypeError, KeyError, IndexError, AttributeError) as error:
        roles = " ".join(m["role"] for m in messages) or "none"
        raise DataError(f"the chat template refuses the turns ({roles}): {error}") from error
    return str(text)


def find_end(tokenizer: Any) -> str:
    """Return the control token that ends an assistant turn of the tokenizer's template.

    Raises:
        ConfigurationError: the template does not end assistant turns with a control token.
    """
    ask = [{"role": "user", "content": "question"}]
    try:
        before = apply(tokenizer, ask, (), True)
        after = apply(tokenizer, [*ask, {"role": "assistant", "content": "answer"}], (), False)
    except DataError as error:
        raise ConfigurationError(f"the chat template does not render one exchange: {error}") from error
    found = re.findall(_pattern(special_tokens(tokenizer)), after.removeprefix(before).partition("answer")[2])
    if not after.startswith(before) or not found:
        raise ConfigurationError(
            "the chat template does not end an assistant turn with a control token after its generation prompt, so "
            "the model could not learn to stop; use a template of the ChatML, Llama-2 or Llama-3 kind"
        )
    return str(found[0])


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the texts of all control tokens, longest first."""
    texts = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    return tuple(sorted(texts, key=lambda t: (-len(t), t)))


def _pattern(specials: tuple[str, ...]) -> str:
    return "(" + "|".join(map(re.escape, specials)) + ")" if specials else r"(?!)"


def _split(text: str, specials: tuple[str, ...], trained: bool) -> Iterator[Piece]:
    for number, part in enumerate(re.split(_pattern(specials), text)):
        if part:
            plain = re.sub(f"{OPEN}(\\d+){CLOSE}", lambda m: specials[int(m[1])], part)
            yield Piece(part, control=True, trained=trained) if number % 2 else Piece(plain, trained=trained)


def encode_message(turn: Turn, number: int) -> dict[str, Any]:
    """Return a turn as the message that chat templates read, with tool calls, reasoning and names.

    Raises:
        DataError: the arguments of a tool call are not JSON.
    """
    out = message(turn)
    if turn.tool_calls:
        try:
            calls = [(call, json.loads(call.arguments)) for call in turn.tool_calls]
        except ValueError as error:
            raise DataError(f"turn {number}: the arguments of a tool call are not JSON ({error})") from error
        out["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
            for call, arguments in calls
        ]
    if turn.reasoning:
        out["reasoning_content"] = turn.reasoning
    if turn.tool_call_id:
        out["tool_call_id"] = turn.tool_call_id
    if turn.name:
        out["name"] = turn.name
    return out


def _protect(value: Any, specials: tuple[str, ...], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _protect(v, specials, where) for key, v in value.items()}
    if isinstance(value, list):
        return [_protect(v, specials, where) for v in value]
    if not isinstance(value, str):
        return value
    if OPEN in value or CLOSE in value:
        raise DataError(f"{where}: contains the private code point U+F0A0A or U+F0A0B; remove it")
    return re.sub(_pattern(specials), lambda m: f"{OPEN}{specials.index(m[0])}{CLOSE}", value)


def _prove_complete(text: str, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> None:
    def need(value: str, what: str) -> None:
        spelled = (value.strip(), json.dumps(value, ensure_ascii=False)[1:-1])
        if not any(form in text for form in spelled):
            raise DataError(f"the chat template leaves out {what}; choose a model whose template writes it")

    for number, said in enumerate(messages):
        need(said["content"], f"content of turn {number}")
        need(said.get("reasoning_content", ""), f"the reasoning of turn {number}")
        if said["role"] != "tool":
            need(said.get("name", ""), f"the speaker's name of turn {number}")
        for call in said.get("tool_calls", ()):
            need(call["function"]["name"], f"a tool call of turn {number}")
            for leaf in _strings(call["function"]["arguments"]):
                need(leaf, f"an argument of a tool call of turn {number}")
    for tool in tools:
        need(str(tool.get("function", tool).get("name", "")), "the tools that are offered")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value
