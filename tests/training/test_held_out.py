from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import save_small_model, small_training, write_items
from test_ray_train import cluster, small_recipe

from agenttuning.recipe import Training, Validation
from agenttuning.storage import Store
from agenttuning.training.batch import Items, load_items
from agenttuning.training.prefixes import sort_items
from agenttuning.training.ray_train import run_training
from agenttuning.training.validation import held_out_loss, read_found, split_items

__all__ = ["cluster"]


def with_validation(**changes: Any) -> Training:
    return small_training(validation=Validation(items=3).model_dump(), **changes)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Items]:
    return load_items(write_items(tmp_path_factory.mktemp("items")), ["agent", "general"])


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
def test_checkpoints_are_measured_while_the_workers_train_on(cluster: None, tmp_path: Path) -> None:
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
