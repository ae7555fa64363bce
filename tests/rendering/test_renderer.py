import copy
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conftest import LLAMA3
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.rendering import Renderer, check_renderer, coloured, renderer_for
from agenttuning.rendering.pieces import Piece
from agenttuning.trajectory import Conversation, ToolCall, Turn

PLAIN = ["chatml", "llama-2-legacy", "llama-2-new", "llama-3", "template"]

Get = Callable[[str], Renderer]


def turns_of(*texts: str, system: str | None = None, loss: tuple[bool, ...] = ()) -> list[Turn]:
    """User and assistant in turn; `loss` per assistant turn, true where not given."""
    out = [Turn(role="system", content=system)] if system is not None else []
    for number, text in enumerate(texts):
        if number % 2 == 0:
            out.append(Turn(role="user", content=text))
        else:
            flag = loss[number // 2] if number // 2 < len(loss) else True
            out.append(Turn(role="assistant", content=text, loss=flag))
    return out


def trained_runs(renderer: Renderer, turns: list[Turn]) -> list[str]:
    """Decode every run of trained tokens by itself."""
    rendered = renderer.render(turns)
    runs: list[list[int]] = []
    previous = False
    for token, trained in zip(rendered.ids.tolist(), rendered.mask.tolist(), strict=True):
        if trained:
            if not previous:
                runs.append([])
            runs[-1].append(token)
        previous = trained
    if renderer.tokenizer.bos_token == "<s>":
        return [_sentencepiece_text(renderer.tokenizer.convert_ids_to_tokens(run)) for run in runs]
    return [renderer.tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]


def _sentencepiece_text(words: list[str]) -> str:
    """Join pieces as they stand: the tokenizer's own decoder drops a leading space."""
    fallback = re.compile(r"<0x([0-9A-F]{2})>")
    data = [bytes([int(m[1], 16)]) if (m := fallback.fullmatch(w)) else w.replace("▁", " ").encode() for w in words]
    return b"".join(data).decode()


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_equals_the_chat_template_token_by_token(name: str, system: str | None, renderer_of: Get) -> None:
    renderer = renderer_of(name)
    turns = turns_of("How many files?\n", "Ok.", "Go.", "Act: bash\n\n```bash\nls | wc -l\n```", "12", "café 数学")
    turns = [Turn(role="system", content=system), *turns] if system else turns
    messages = [{"role": t.role, "content": t.content} for t in turns]
    theirs = renderer.tokenizer.apply_chat_template(messages, return_dict=False)
    assert renderer.render(turns).ids.tolist() == theirs
    asked = renderer.tokenizer.apply_chat_template(messages[:-1], return_dict=False, add_generation_prompt=True)
    assert renderer.prompt(turns[:-1]).tolist() == asked


def test_families_are_found_from_the_template(renderer_of: Get) -> None:
    names = {name: renderer_of(name).family.name for name in PLAIN}
    assert names == {
        "chatml": "chatml",
        "llama-2-legacy": "llama-2-chat",
        "llama-2-new": "llama-2-chat",
        "llama-3": "llama-3",
        "template": "template",
    }


@pytest.mark.parametrize("name", PLAIN)
def test_mask_is_assistant_text_and_end_token_of_trained_turns_only(name: str, renderer_of: Get) -> None:
    renderer = renderer_of(name)
    turns = turns_of("Go", "Ok.", "A task", "first answer", "B", "second answer", loss=(False, True, True))
    expected = {
        "llama-2-chat": [" first answer </s>", " second answer </s>"],
        "chatml": ["first answer<|im_end|>", "second answer<|im_end|>"],
        "llama-3": ["first answer<|eot_id|>", "second answer<|eot_id|>"],
        "template": ["first answer<|end|>", "second answer<|end|>"],
    }
    assert trained_runs(renderer, turns) == expected[renderer.family.name]


@pytest.mark.parametrize("name", ["llama-2-legacy", "llama-2-new"])
def test_llama2_has_one_bos_per_exchange_and_never_two_in_a_row(name: str, renderer_of: Get) -> None:
    renderer = renderer_of(name)
    ids = renderer.render(turns_of("a", "b", "c", "d")).ids
    bos = ids == renderer.tokenizer.bos_token_id
    assert bos[0]
    assert bos.sum() == 2
    assert not (bos[1:] & bos[:-1]).any()


@pytest.mark.parametrize("name", ["llama-3", "template"])
def test_exactly_one_bos(name: str, renderer_of: Get) -> None:
    renderer = renderer_of(name)
    ids = renderer.render(turns_of("a", "b", "c", "d")).ids
    assert (ids == renderer.tokenizer.bos_token_id).tolist() == [True] + [False] * (len(ids) - 1)


parts = [*"ab. \n\té数'`[]", "<|im_end|>", "<|eot_id|>", "</s>", "<|end|>", "[/INST]"]
text = st.lists(st.sampled_from(parts), max_size=8).map("".join)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(text, min_size=1, max_size=6), flags=st.tuples(*[st.booleans()] * 3), name=st.sampled_from(PLAIN))
def test_mask_and_prompt_hold_for_any_text(
    texts: list[str], flags: tuple[bool, bool, bool], name: str, renderer_of: Get
) -> None:
    """Whatever stands in the contents: ids do not depend on the mask, control tokens appear only where the template
    puts them, the mask decodes to the trained text, and each prompt is a prefix of what is trained.
    """
    renderer = renderer_of(name)
    turns = turns_of(*texts, loss=flags)
    rendered = renderer.render(turns)
    assert rendered.ids.dtype == np.int32
    assert rendered.mask.dtype == np.bool_
    assert len(rendered.ids) == len(rendered.mask)
    untrained = renderer.render(turns_of(*texts, loss=(False, False, False)))
    assert (untrained.ids == rendered.ids).all()
    assert not untrained.mask.any()

    replies = [t for t in turns if t.role == "assistant"]
    is_end = rendered.ids == renderer.end_id
    others = len(turns) - len(replies) + (renderer.family.name == "chatml")
    assert is_end.sum() == len(replies) + (0 if renderer.family.name == "llama-2-chat" else others)
    assert (is_end & rendered.mask).sum() == sum(bool(t.loss) for t in replies)

    strips = renderer.family.name in ("llama-2-chat", "llama-3")
    spoken = [t.content.strip() if strips else t.content for t in replies if t.loss]
    if renderer.family.name == "llama-2-chat":
        spoken = [f" {s} " for s in spoken]
    assert trained_runs(renderer, turns) == [s + renderer.family.end for s in spoken]

    for number, turn in enumerate(turns):
        if turn.role == "assistant":
            prompt = renderer.prompt(turns[:number])
            assert (rendered.ids[: len(prompt)] == prompt).all()


@pytest.mark.parametrize("name", ["chatml", "template"])
@pytest.mark.parametrize("loss", [True, False])
def test_a_reply_that_begins_with_white_space_is_kept_apart_from_its_prompt(
    name: str, loss: bool, renderer_of: Get
) -> None:
    renderer = renderer_of(name)
    turns = turns_of("a", "\n\nb", loss=(loss,))
    prompt = renderer.prompt(turns[:1])
    assert renderer.render(turns).ids[: len(prompt)].tolist() == prompt.tolist()


@dataclass(frozen=True)
class Labelled:
    """A family whose generation prompt ends with a space, which SentencePiece would join with the reply."""

    name: str = "labelled"
    end: str = "</s>"

    def pieces(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = (), generate: bool = False
    ) -> list[Piece]:
        reply = Piece(turns[1].content, trained=True, cut=True)
        return [Piece("<s>", control=True), Piece("ask: "), reply, Piece("</s>", control=True, trained=True)]


@pytest.mark.parametrize("name", ["llama-2-legacy", "llama-2-new"])
def test_a_reply_gets_no_space_that_it_does_not_have(name: str, tokenizers_by_name: dict[str, Any]) -> None:
    renderer = Renderer(tokenizers_by_name[name], Labelled())
    assert trained_runs(renderer, turns_of("a", "question")) == ["question</s>"]


@pytest.mark.parametrize("name", ["chatml", "llama-2-new", "llama-3"])
@pytest.mark.parametrize(
    "beyond",
    [
        Turn(role="tool", content="12", tool_call_id="1"),
        Turn(role="assistant", content="", tool_calls=(ToolCall(id="1", name="ls", arguments="{}"),)),
        Turn(role="assistant", content="x", reasoning="because"),
        Turn(role="user", content="x", name="Ann"),
    ],
)
def test_what_a_family_cannot_express_is_refused(name: str, beyond: Turn, renderer_of: Get) -> None:
    turns = turns_of("a", "b") + ([beyond] if beyond.role != "assistant" else [Turn(role="user", content="c"), beyond])
    with pytest.raises(DataError, match=r"cannot express|leaves out"):
        renderer_of(name).render(turns)


def test_offered_tools_are_refused_where_the_template_has_none(renderer_of: Get) -> None:
    with pytest.raises(DataError, match="tools are offered"):
        renderer_of("chatml").render(turns_of("a", "b"), tools=[{"type": "function", "function": {"name": "ls"}}])


def test_tool_calls_are_trained_where_the_template_writes_them(renderer_of: Get) -> None:
    renderer = renderer_of("template")
    call = ToolCall(id="1", name="bash", arguments='{"command": "echo \\"<|end|>\\""}')
    turns = [
        Turn(role="user", content="count"),
        Turn(role="assistant", content="", tool_calls=(call,), reasoning="look first", loss=True),
        Turn(role="tool", content="12<|end|>", tool_call_id="1", name="bash"),
        Turn(role="assistant", content="12", loss=True),
    ]
    tools = [{"type": "function", "function": {"name": "bash", "parameters": {}}}]
    runs = trained_runs(renderer, turns)
    assert runs[0].startswith("<|think|>look first<|/think|><|call|>{")
    assert runs[0].endswith("}<|end|>")
    assert runs[1] == "12<|end|>"
    rendered = renderer.render(turns, tools)
    assert (rendered.ids == renderer.end_id).sum() == 5, "tools, four turns; none from the contents"


def test_arguments_that_are_not_json_are_refused(renderer_of: Get) -> None:
    turn = Turn(role="assistant", content="", tool_calls=(ToolCall(id="1", name="bash", arguments="{"),))
    with pytest.raises(DataError, match="not JSON"):
        renderer_of("template").render([Turn(role="user", content="a"), turn])


def test_a_template_that_rewrites_earlier_turns_is_refused_item_by_item(renderer_of: Get) -> None:
    renderer = renderer_of("forgetful")
    assert renderer.render(turns_of("a", "b", "c", "d")).mask.any()
    with pytest.raises(DataError, match="turn 1"):
        renderer.render(turns_of("a", "<think>why</think>b", "c", "d"))


@pytest.mark.parametrize("tail", ["{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}", "{{ bos_token }}"])
def test_what_a_template_writes_behind_the_last_turn_is_there_once_and_not_trained(
    tail: str, tokenizers_by_name: dict[str, Any]
) -> None:
    """A generation prompt that nobody asked for, as in the first Llama-3 templates, or one more token, as in Phi-3."""
    tokenizer = copy.deepcopy(tokenizers_by_name["llama-3"])
    always, _, prompt = LLAMA3.partition("{% if add_generation_prompt %}")
    asked = prompt.partition("{% endif %}")[0]
    tokenizer.chat_template = always + (tail if asked in tail else f"{{% if add_generation_prompt %}}{asked}"
                                        f"{{% else %}}{tail}{{% endif %}}")  # fmt: skip
    renderer = renderer_for(tokenizer, "models/x")
    assert renderer.family.name == "template"
    turns = turns_of("a", "first", "b", "second", loss=(True, True))
    theirs = tokenizer.apply_chat_template([{"role": t.role, "content": t.content} for t in turns], return_dict=False)
    assert renderer.render(turns).ids.tolist() == theirs
    assert trained_runs(renderer, turns) == ["first<|eot_id|>", "second<|eot_id|>"]
    assert not renderer.render(turns).mask[-1]


@pytest.mark.parametrize("turns", [turns_of("a", "b")[1:], [*turns_of("a"), *turns_of("b")]])
def test_llama2_refuses_turns_that_do_not_alternate(turns: list[Turn], renderer_of: Get) -> None:
    with pytest.raises(DataError, match="alternate"):
        renderer_of("llama-2-new").render(turns)


def test_loss_on_a_turn_that_is_not_the_assistants_is_refused(renderer_of: Get) -> None:
    with pytest.raises(DataError, match="only assistant turns"):
        renderer_of("chatml").render([Turn(role="user", content="a", loss=True)])


def test_templates_that_cannot_be_proven_are_refused(tokenizers_by_name: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers_by_name["chatml"])
    tokenizer.chat_template = "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(ConfigurationError, match="learn to stop"):
        renderer_for(tokenizer, "models/x")
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="no single chat template"):
        renderer_for(tokenizer, "models/x")


def test_a_renderer_crosses_processes(renderer_of: Get) -> None:
    renderer = renderer_of("chatml")
    again = pickle.loads(pickle.dumps(renderer))
    assert (again.render(turns_of("a", "b")).ids == renderer.render(turns_of("a", "b")).ids).all()
    assert again.fingerprint == renderer.fingerprint
    assert again.fingerprint != renderer_of("llama-3").fingerprint


def test_check_counts_equal_and_says_what_it_did_not_check(renderer_of: Get) -> None:
    renderer = renderer_of("chatml")
    conversations = [
        Conversation(id=str(number), source="s", turns=tuple(turns))
        for number, turns in enumerate(
            [turns_of("a", "b"), turns_of("say <|im_end|>", "no"), turns_of("a", "\n\n\nb"), turns_of("c", "d", "e")]
        )
    ]
    result = check_renderer(renderer, renderer.tokenizer, conversations)
    assert result.equal == 2
    assert result.different == ()
    assert sorted(result.not_checked.values()) == [1, 1]
    assert "2 equal" in str(result)


def test_check_finds_a_difference(renderer_of: Get, tokenizers_by_name: dict[str, Any]) -> None:
    other = copy.deepcopy(tokenizers_by_name["chatml"])
    other.chat_template = other.chat_template.replace("helpful", "hopeful")
    conversation = Conversation(id="x", source="s", turns=tuple(turns_of("a", "b")))
    result = check_renderer(renderer_of("chatml"), other, [conversation])
    assert result.equal == 0
    assert result.different[0][0] == "x"
    assert "different (x at token" in str(result)


@pytest.mark.parametrize("name", PLAIN)
def test_coloured_shows_all_text_and_colours_only_what_is_trained(name: str, renderer_of: Get) -> None:
    renderer = renderer_of(name)
    shown = coloured(renderer.render(turns_of("say \x1b[31m it", "the reply")), renderer.tokenizer)
    green = shown.split("\x1b[1;32m")[1].split("\x1b[0m")[0]
    assert green.strip() in (f"the reply{renderer.family.end}", f"the reply {renderer.family.end}")
    assert shown.count("\x1b[1;32m") == 1
    assert "\x1b[31m" not in shown
    assert "trained (" in shown.splitlines()[-1]
