from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agenttuning.errors import DataError
from agenttuning.rendering import Renderer, renderer_for
from agenttuning.training import encode
from agenttuning.training.encode import encode_conversations, fingerprint
from agenttuning.trajectory import Conversation, Turn

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {word: i for i, word in enumerate(["<|im_start|>", "<|im_end|>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = TEMPLATE
    return renderer_for(fast)


def conversation(name: str, *texts: str, loss: Sequence[bool] = ()) -> Conversation:
    turns = []
    for number, text in enumerate(texts):
        role = "assistant" if number % 2 else "user"
        flag = (loss[number // 2] if number // 2 < len(loss) else True) if number % 2 else None
        turns.append(Turn.model_validate({"role": role, "content": text, "loss": flag}))
    return Conversation(id=name, source="agent", turns=tuple(turns))


def test_table_holds_what_the_renderer_gives(renderer: Renderer) -> None:
    items = [conversation("a", "q", "r"), conversation("b", "q", "Ok.", "s", "longer answer", loss=(False, True))]
    table, report = encode_conversations(items, renderer, 1000)
    assert table.schema == encode.SCHEMA
    for row, item in zip(table.to_pylist(), items, strict=True):
        rendered = renderer.render(item.turns)
        assert (row["id"], row["source"]) == (item.id, "agent")
        assert row["ids"] == rendered.ids.tolist()
        assert row["mask"] == rendered.mask.tolist()
        assert row["tokens"] == len(rendered.ids)
        assert row["supervised"] == rendered.mask.sum()
    assert report.items == 2
    assert report.tokens == sum(table["tokens"].to_pylist())
    assert report.supervised == len("r") + 1 + len("longer answer") + 1
    assert report.longest == max(table["tokens"].to_pylist())
    assert (dict(report.dropped), dict(report.cut)) == ({}, {})


def test_an_unfinished_reply_is_trained_without_an_end(renderer: Renderer) -> None:
    whole = conversation("a", "q", "Fine.", "s", "It goes on")
    begun = whole.model_copy(update={"meta": {"unfinished": True}})
    table, _ = encode_conversations([whole, begun], renderer, 1000)
    finished, open_end = table.to_pylist()
    end = renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    trained = [i for i, t in zip(finished["ids"], finished["mask"], strict=True) if t]
    assert trained.count(end) == 2
    assert open_end["ids"] == finished["ids"][: len(open_end["ids"])]
    assert [i for i, t in zip(open_end["ids"], open_end["mask"], strict=True) if t] == trained[:-1]
    assert open_end["mask"][-1]


def test_batches_do_not_change_the_table(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [conversation(str(n), "q" * n, "r") for n in range(7)]
    whole, _ = encode_conversations(items, renderer, 1000)
    monkeypatch.setattr(encode, "BATCH", 3)
    parts, _ = encode_conversations(iter(items), renderer, 1000)
    assert parts.to_pylist() == whole.to_pylist()
    assert fingerprint(parts) == fingerprint(whole)


def test_too_long_items_are_dropped_and_counted(renderer: Renderer) -> None:
    items = [conversation("short", "q", "r"), conversation("long", "q" * 100, "r")]
    table, report = encode_conversations(items, renderer, 60)
    assert table["id"].to_pylist() == ["short"]
    assert dict(report.dropped) == {"longer than mixture.max_length=60": 1}
    assert report.examples == {"longer than mixture.max_length=60": ["long"]}
    assert report.to_dict()["dropped"] == {"longer than mixture.max_length=60": 1}


@pytest.mark.parametrize("tail", [(), ("and",)])
def test_cut_keeps_the_most_opening_turns_that_fit(tail: tuple[str, ...], renderer: Renderer) -> None:
    item = conversation("x", "one", "two", "three", "four", "five", "six", *tail)
    lengths = {n: len(renderer.render(item.turns[:n]).ids) for n in range(2, len(item.turns) + 1, 2)}
    for kept, length in lengths.items():
        if kept == len(item.turns):
            continue
        for limit in (length, min(lengths.get(kept + 2, length + 1), len(renderer.render(item.turns).ids)) - 1):
            table, report = encode_conversations([item], renderer, limit, "cut")
            assert table["ids"].to_pylist() == [renderer.render(item.turns[:kept]).ids.tolist()]
            assert report.turns_cut == len(item.turns) - kept
            assert dict(report.cut) == {f"longer than mixture.max_length={limit}": 1}
            assert not report.dropped


def test_cut_drops_what_keeps_no_trained_turn(renderer: Renderer) -> None:
    items = [conversation("x", "q" * 100, "r"), conversation("y", "q", "Ok.", "q" * 100, "r", loss=(False, True))]
    table, report = encode_conversations(items, renderer, 60, "cut")
    assert table.num_rows == 0
    assert dict(report.dropped) == {"longer than mixture.max_length=60, and no trained turn fits": 2}


def test_an_item_without_a_trained_token_is_an_error_with_its_id(renderer: Renderer) -> None:
    with pytest.raises(DataError, match="conversation x1 of agent: no token would be trained"):
        encode_conversations([conversation("x1", "q", "r", loss=(False,))], renderer, 100)


def test_what_the_template_cannot_express_is_an_error_with_its_id(renderer: Renderer) -> None:
    item = conversation("x2", "q", "r")
    tool = Turn(role="tool", content="12")
    with pytest.raises(DataError, match="conversation x2 of agent: turn 2 has the role `tool`"):
        encode_conversations([item.model_copy(update={"turns": (*item.turns, tool)})], renderer, 100)


def test_items_that_begin_alike_are_known(renderer: Renderer) -> None:
    table, _ = encode_conversations([conversation(n, "same opening", f"reply {n}") for n in "ab"], renderer, 4096)
    ids = [np.asarray(x) for x in table["ids"].to_pylist()]
    second = table["place"].to_pylist().index(1)
    shared = table["shared"].to_pylist()
    assert shared[1 - second] == 0
    assert 0 < shared[second] < min(map(len, ids))
    assert (ids[0][: shared[second]] == ids[1][: shared[second]]).all()
    assert ids[0][shared[second]] != ids[1][shared[second]]


def test_nothing_gives_an_empty_table(renderer: Renderer) -> None:
    table, report = encode_conversations([], renderer, 100)
    assert table.schema == encode.SCHEMA
    assert table.num_rows == report.items == report.tokens == 0


def test_fingerprint_reads_content_not_chunks(renderer: Renderer, tmp_path: Any) -> None:
    table, _ = encode_conversations([conversation(str(n), "q" * n, "r") for n in range(9)], renderer, 1000)
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    assert fingerprint(pq.read_table(tmp_path / "t.parquet")) == fingerprint(table)
    assert fingerprint(pa.concat_tables([table.slice(0, 4), table.slice(4)])) == fingerprint(table)
    assert fingerprint(table.slice(0, 8)) != fingerprint(table)
    assert fingerprint(table.take(list(reversed(range(9))))) != fingerprint(table)
    mask = [[*m[:-1], not m[-1]] for m in table["mask"].to_pylist()]
    flipped = table.set_column(3, table.schema.field("mask"), [pa.array(mask)])
    assert fingerprint(flipped) != fingerprint(table)
