import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import plan_for, save_small_model, small_training, write_items
from test_ray_train import small_recipe

from agenttuning.recipe import Recipe, Training, Validation
from agenttuning.stages.validating import Greedy, episode_player
from agenttuning.storage import Store
from agenttuning.training import validation
from agenttuning.training.batch import Items, load_items
from agenttuning.training.checkpoint import checkpoint_name
from agenttuning.training.loop import TrainConfig, train
from agenttuning.training.prefixes import sort_items
from agenttuning.training.ray_train import run_training
from agenttuning.training.validation import held_out_loss, read_found, split_items
from agenttuning.trajectory import Turn


def with_validation(**changes: Any) -> Training:
    return small_training(validation=Validation(items=3).model_dump(), **changes)


def test_held_out_items_are_in_no_training_and_nothing_is_lost(items: dict[str, Items]) -> None:
    kept, held = split_items(items, with_validation(), seed=1)
    for name, source in items.items():
        names = [set(part[name].names.to_pylist()) for part in (kept, held)]
        assert not names[0] & names[1]
        assert names[0] | names[1] == set(source.names.to_pylist())
        assert len(held[name]) == min(3, len(source) // 10) > 0
    again, _ = split_items(items, with_validation(), seed=1)
    other, _ = split_items(items, with_validation(), seed=2)
    assert again["agent"].names.equals(kept["agent"].names)
    assert not other["agent"].names.equals(kept["agent"].names)
    assert split_items(items, small_training(), seed=1) == (items, {})


def test_what_chosen_items_share_is_what_their_tokens_say(tmp_path: Path) -> None:
    items = load_items(write_items(tmp_path, common=70), ["agent", "general"])
    for source in split_items(items, with_validation(), seed=3)[0].values():
        ids, masks = zip(*(source[n] for n in range(len(source))), strict=True)
        place, shared = sort_items(ids, masks)
        assert source.counts.prefixes is not None
        found = source.counts.prefixes.of_chosen(np.arange(len(source)))
        np.testing.assert_array_equal(found[0], place)
        first = place == 0
        np.testing.assert_array_equal(found[1][~first], shared[~first])


def test_the_loss_is_that_of_each_item_alone(items: dict[str, Items], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = save_small_model(tmp_path)
    _, held = split_items(items, with_validation(), seed=1)
    found = held_out_loss(model, held, small_training())
    causal = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    sums, counts = {}, {}
    for name, source in held.items():
        losses = []
        for number in range(len(source)):
            ids, mask = source[number]
            with torch.no_grad():
                logits = causal(torch.from_numpy(ids)[None]).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids)[1:], reduction="none")
            losses.append(each[torch.from_numpy(mask.copy())[1:]])
        sums[name], counts[name] = float(torch.cat(losses).sum()), len(torch.cat(losses))
        assert found[f"loss/{name}"] == pytest.approx(sums[name] / counts[name], rel=1e-5)
    assert found["loss"] == pytest.approx(sum(sums.values()) / sum(counts.values()), rel=1e-5)


@pytest.mark.ray
def test_checkpoints_are_measured_while_the_workers_train_on(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "LOOK_SECONDS", 0.0)
    model, items = save_small_model(tmp_path / "model"), write_items(tmp_path / "items")
    recipe = small_recipe(zero_stage=3, steps=200, checkpoint_every=20, validation={"items": 3, "cpus": 1.0})
    output = Store(str(tmp_path / "training"))
    told: list[tuple[str, dict[str, Any]]] = []
    run_training(
        recipe, model, items, output,
        on_step=lambda metrics: told.append(("step", metrics)),
        on_validation=lambda metrics: told.append(("validation", metrics)),
    )  # fmt: skip
    measured = [m for kind, m in told if kind == "validation"]
    assert measured == read_found(output)
    assert measured[-1]["step"] == 200
    assert all({"loss", "loss/agent", "loss/general"} <= m.keys() for m in measured)
    # The workers had gone on when the first was told.
    first = next(n for n, (kind, _) in enumerate(told) if kind == "validation")
    assert told[first - 1][1]["step"] > told[first][1]["step"] or len(measured) == 1


def test_no_checkpoint_before_the_newest_that_was_measured_is_measured_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, begun = Store(str(tmp_path)), []

    def task(function: Any) -> Any:
        def remote(*arguments: Any) -> dict[str, Any]:
            begun.append(arguments[-1])
            return {"checkpoint": arguments[-1]}

        return SimpleNamespace(remote=remote)

    monkeypatch.setattr(validation.ray, "remote", lambda **resources: task)
    monkeypatch.setattr(validation.ray, "wait", lambda tasks, timeout: (tasks, []))
    monkeypatch.setattr(validation.ray, "get", lambda found: found)
    told: list[dict[str, Any]] = []
    names = [checkpoint_name(step) for step in (20, 40, 60)]
    recipe = small_recipe(validation={"items": 3})

    def look() -> None:
        validation.Validation(recipe, tmp_path, output, output, told.append, print).finish()

    for name in names[:2]:
        output.write_json(f"{name}/complete.json", {})
    look()
    look()
    output.write_json(f"{names[2]}/complete.json", {})
    look()
    assert begun == [names[1], names[2]]
    assert [m["checkpoint"] for m in told] == begun


def test_a_machine_that_has_no_cache_directory_yet_measures_a_checkpoint(
    model: Path, store: Store, items: dict[str, Items], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTTUNING_CACHE", str(tmp_path / "not" / "there"))
    recipe = small_recipe(steps=2, checkpoint_every=2, validation={"items": 3})
    output = Store(str(tmp_path / "training"))
    train(TrainConfig(recipe.training, model, output), plan_for(items, recipe.training), items)
    name = checkpoint_name(2)
    found = validation._validate(recipe.model_dump(mode="json"), str(model), store, output, None, name)
    assert (found["step"], found["checkpoint"]) == (2, name)
    assert found["loss"] > 0


def playing_recipe(**training: Any) -> Recipe:
    """Short replies in an environment that needs nothing but Python."""
    playing = {"environments": {"db": {"max_steps": 3}}, "evaluation": {"max_tokens": 8}}
    return Recipe.model_validate(small_recipe(**training).model_dump(mode="json") | playing)


def test_a_model_in_a_directory_answers_as_plain_generation_does(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reply = asyncio.run(Greedy(tiny_model, 12).act((Turn(role="user", content="How many rows?"),), seed=0))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    asked = [{"role": "user", "content": "How many rows?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    causal = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    out = causal.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    ended = out[-1].item() == tokenizer.eos_token_id
    assert reply.content == tokenizer.decode(out[:-1] if ended else out)
    assert reply.finish_reason == ("stop" if ended else "length")
    assert (reply.prompt_tokens, reply.completion_tokens) == (ids["input_ids"].shape[1], len(out))


@pytest.mark.ray
def test_test_episodes_are_played_with_a_checkpoints_weights(cluster: None, tiny_model: Path, tmp_path: Path) -> None:
    """A random model in a real environment: episodes end, none succeeds."""
    recipe = playing_recipe(zero_stage=3, steps=8, checkpoint_every=4, validation={"items": 3, "cpus": 1.0})
    told: list[dict[str, Any]] = []
    notes: list[str] = []
    run_training(
        recipe, tiny_model, write_items(tmp_path / "items"), Store(str(tmp_path / "training")), on_note=notes.append,
        on_validation=told.append, measure=episode_player(recipe, 2),
    )  # fmt: skip
    assert not [note for note in notes if "passed over" in note]
    assert told[-1]["step"] == 8
    assert (told[-1]["episodes"], told[-1]["success"]) == (2, 0)
    assert told[-1]["loss"] > 0
