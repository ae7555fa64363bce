import asyncio
import contextlib
import json
import shutil

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.errors import DataError
from agenttuning.evaluation import general, material, probe_loss
from agenttuning.evaluation.checks import CHECKS, passes
from agenttuning.evaluation.material import Dialogue, Instruction, bundled_dialogues, bundled_instructions, spread
from agenttuning.evaluation.probe_loss import batches, dialogue_loss
from agenttuning.policies.base import Reply
from agenttuning.recipe import validate_recipe
from agenttuning.storage import Store
from agenttuning.trajectory import Turn

QUESTIONS = [
    Instruction(id=f"q{i}", prompt=f"say {i}", checks=({"kind": "lowercase"}, {"kind": "max_words", "n": 9})[i % 2 :])
    for i in range(6)
]


class _Echo:
    """Answers each prompt by itself, even ones in capitals."""

    name = "echo"

    def __init__(self):
        self.settings = {}
        self.at_once = self.most = 0
        self.closed = False

    async def act(self, turns, seed):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        text = turns[-1].content
        return Reply(content=text.upper() if int(text.split()[-1]) % 2 == 0 else text, finish_reason="stop")

    async def aclose(self):
        self.closed = True


def test_answers_are_checked_and_come_in_order():
    policy = _Echo()
    answers = asyncio.run(general.answer_all(policy, QUESTIONS, concurrency=2))
    assert [a.id for a in answers] == [q.id for q in QUESTIONS]
    assert [a.passed for a in answers] == [False, True] * 3
    assert answers[0].failed == ("lowercase",)
    assert policy.most == 2
    assert policy.closed


def test_an_error_of_the_policy_comes_through_plain():
    class Broken(_Echo):
        async def act(self, turns, seed):
            raise DataError("no such model")

    policy = Broken()
    with pytest.raises(DataError, match="no such model"):
        asyncio.run(general.answer_all(policy, QUESTIONS, concurrency=2))
    assert policy.closed


def test_spread_is_even_and_never_repeats(capsys):
    records = [Dialogue(id=str(i), category="c", messages=()) for i in range(10)]
    assert [r.id for r in spread(records, 3, "k")] == ["0", "3", "6"]
    assert spread(records, 10, "k") == records
    assert spread(records, 0, "k") == []
    assert spread(records, 99, "general_dialogues") == records
    assert "evaluation.general_dialogues is 99, but 10 are bundled" in capsys.readouterr().out


def test_a_damaged_file_names_the_cure(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "general_dialogues.jsonl").write_text('{"id": "x"}\n')
    monkeypatch.setattr(material, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match=r"general_dialogues\.jsonl: damaged"):
        bundled_dialogues(1)


def test_bundled_material_is_whole():
    dialogues, instructions = bundled_dialogues(10**6), bundled_instructions(10**6)
    assert len(dialogues) >= 60
    assert len(instructions) >= 60
    assert len({d.id for d in dialogues}) == len(dialogues)
    assert len({i.id for i in instructions}) == len(instructions)
    for dialogue in dialogues:
        assert dialogue.messages[-1].role == "assistant", dialogue.id
        assert any(t.loss for t in dialogue.turns())
    for instruction in instructions:
        assert instruction.checks, instruction.id
        for check in instruction.checks:
            assert check["kind"] in CHECKS
            passes(check, "some answer")


DIALOGUES = [
    ("a", "chat", (Turn(role="user", content="Hello"), Turn(role="assistant", content="Hello you", loss=True))),
    (
        "b",
        "chat",
        (
            Turn(role="user", content="One?"),
            Turn(role="assistant", content="Two.", loss=True),
            Turn(role="user", content="And?"),
            Turn(role="assistant", content="Three, of course.", loss=True),
        ),
    ),
]


def test_loss_equals_one_computed_from_the_templates_own_text(tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = dialogue_loss(tiny_model, DIALOGUES)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    total = count = 0.0
    for (_, _, turns), found in zip(DIALOGUES, result.dialogues, strict=True):
        ids, supervised = [], []
        for turn in turns:
            head = tokenizer(f"<|im_start|>{turn.role}\n", add_special_tokens=False).input_ids
            body = tokenizer(f"{turn.content}<|im_end|>", add_special_tokens=False).input_ids
            tail = tokenizer("\n", add_special_tokens=False).input_ids
            ids += head + body + tail
            supervised += [False] * len(head) + [turn.role == "assistant"] * len(body) + [False] * len(tail)
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nll = [-logp[i - 1, ids[i]].item() for i, on in enumerate(supervised) if on]
        assert found.tokens == len(nll)
        assert found.loss == pytest.approx(sum(nll) / len(nll), rel=1e-5)
        total, count = total + sum(nll), count + len(nll)
    assert result.mean == pytest.approx(total / count, rel=1e-5)
    assert result.tokens == count
    assert (result.device, result.dtype) == ("cpu", "float32") or result.device == "cuda"


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(50, 400))
def test_batches_hold_every_dialogue_once_within_their_size(lengths, most):
    groups = batches(lengths, most)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or max(lengths[i] for i in group) * len(group) <= most


def test_loss_does_not_depend_on_the_company(tiny_model, monkeypatch):
    together = dialogue_loss(tiny_model, DIALOGUES)
    monkeypatch.setattr(probe_loss, "BATCH_TOKENS", 1)
    alone = dialogue_loss(tiny_model, DIALOGUES)
    assert [d.loss for d in together.dialogues] == pytest.approx([d.loss for d in alone.dialogues], rel=1e-5)


def test_files_of_twice_the_bytes_are_measured_in_the_same_dtype(tiny_model, tmp_path, monkeypatch):
    """A base model in float32 files and what was tuned from it in bfloat16."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_model / "model.safetensors")
    save_file({n: w.float() for n, w in weights.items()}, tmp_path / "model.safetensors")
    count = sum(w.numel() for w in weights.values())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for most, dtype in ((count, "float32"), (count - 1, "bfloat16")):
        monkeypatch.setattr(probe_loss, "FLOAT32_WEIGHTS", most)
        assert probe_loss.placement(tiny_model) == probe_loss.placement(tmp_path) == ("cpu", dtype)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_models_own_code_is_run_where_it_is_trusted(tiny_model, tmp_path, monkeypatch, trusted):
    """A tokenizer class that comes with the model."""
    shutil.copytree(tiny_model, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "own.py").write_text(
        "import pathlib\nfrom transformers import PreTrainedTokenizerFast\n\n\nclass Own(PreTrainedTokenizerFast):\n"
        f"    pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with contextlib.nullcontext() if trusted else contextlib.suppress(ValueError):
        dialogue_loss(tmp_path / "m", DIALOGUES, trust_remote_code=trusted)
    assert (tmp_path / "ran").exists() is trusted


def test_a_dialogue_without_an_answer_is_an_error(tiny_model):
    with pytest.raises(DataError, match="dialogue x: no assistant token"):
        dialogue_loss(tiny_model, [("x", "c", (Turn(role="user", content="Hello"),))])


def test_evaluate_general_through_a_real_endpoint(tiny_model, tmp_path, monkeypatch):
    """A server on loopback answers in small letters; the second call reads what is stored."""
    asked = []

    async def complete(request):
        body = await request.json()
        asked.append(body)
        message = {"role": "assistant", "content": body["messages"][-1]["content"].lower()}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}})

    monkeypatch.setattr(general, "bundled_instructions", lambda count: QUESTIONS[:count])
    monkeypatch.setattr(
        general,
        "bundled_dialogues",
        lambda count: [
            Dialogue.model_validate(
                {"id": i, "category": c, "messages": [{"role": t.role, "content": t.content} for t in turns]}
            )
            for i, c, turns in DIALOGUES[:count]
        ],
    )
    recipe = validate_recipe({"evaluation": {"general_instructions": 4, "general_dialogues": 2}})
    store = Store(str(tmp_path))

    async def serve():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        result = await asyncio.to_thread(general.evaluate_general, url, "m", tiny_model, recipe, store)
        await runner.cleanup()
        return result

    result = asyncio.run(serve())
    assert (result.success.successes, result.success.episodes) == (4, 4)
    assert {k: r.episodes for k, r in result.by_category.items()} == {"lowercase": 2, "max_words": 2}
    assert result.loss is not None
    assert [d.id for d in result.loss.dialogues] == ["a", "b"]
    assert {body["temperature"] for body in asked} == {0.0}
    assert json.loads(store.read("general.json")) == result.model_dump(mode="json")
    assert result.headline()["loss"] == result.loss.mean
    assert general.evaluate_general("http://127.0.0.1:9/v1", "m", tiny_model, recipe, store) == result
    assert len(asked) == 4
