"""A step's gradient does not depend on how its items are laid out: micro-steps, ranks, one batch, ZeRO's stages."""

from pathlib import Path

import pytest
import torch
from small_runs import gradients, plan_for, run_workers, small_training

from agenttuning.recipe import Training
from agenttuning.storage import Store
from agenttuning.training.batch import Items

TOLERANCE = 2e-6
"""Of the norm of the difference, against the norm of the gradient, in float32; 3e-7 was measured."""
SEEDS = (1, 2, 3, 4)


def layout(stage: int = 0, row_tokens: int = 96) -> Training:
    return small_training(items_per_step=12, row_tokens=row_tokens, zero_stage=stage)


@pytest.fixture(scope="module")
def accumulated(model: Path, items: dict[str, Items]) -> list[dict[str, torch.Tensor]]:
    """One rank and several micro-steps, in plain PyTorch: what the others are compared with."""
    return gradients(model, items, layout(), SEEDS)


def assert_equal(found: list[dict[str, torch.Tensor]], wanted: list[dict[str, torch.Tensor]]) -> None:
    assert len(found) == len(wanted)
    for mine, other in zip(found, wanted, strict=True):
        assert mine.keys() == other.keys()
        differences = torch.stack([(mine[name] - gradient).square().sum() for name, gradient in other.items()])
        norms = torch.stack([gradient.square().sum() for gradient in other.values()])
        assert float((differences.sum() / norms.sum()).sqrt()) < TOLERANCE


def test_the_layouts_are_different_ones_of_the_same_items(items: dict[str, Items]) -> None:
    for seed in SEEDS:
        one, two, whole = (
            plan_for(items, layout(row_tokens=row_tokens), ranks, seed)
            for row_tokens, ranks in ((96, 1), (96, 2), (4096, 1))
        )
        assert sorted(one.trained(0)) == sorted(two.trained(0)) == sorted(whole.trained(0))
        assert one.step(0).micro_steps >= 4
        assert two.step(0).micro_steps == -(-one.step(0).micro_steps // 2)
        assert whole.step(0).micro_steps == 1


def test_micro_steps_give_the_gradient_of_one_batch(
    model: Path, items: dict[str, Items], accumulated: list[dict[str, torch.Tensor]]
) -> None:
    assert_equal(gradients(model, items, layout(row_tokens=4096), SEEDS), accumulated)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", [2, 3])
def test_ranks_and_stages_give_the_gradient_of_one_process(
    model: Path, store: Store, accumulated: list[dict[str, torch.Tensor]], tmp_path: Path, stage: int, ranks: int
) -> None:
    run_workers(model, store, tmp_path / "found", layout(stage), ranks, seeds=SEEDS)
    assert_equal(torch.load(tmp_path / "found"), accumulated)


def test_one_batch_over_zero_gives_it_too(
    model: Path, store: Store, accumulated: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    run_workers(model, store, tmp_path / "found", layout(3, row_tokens=4096), seeds=SEEDS)
    assert_equal(torch.load(tmp_path / "found"), accumulated)


def test_a_wrong_divisor_would_be_found(accumulated: list[dict[str, torch.Tensor]]) -> None:
    """A relative error of one in a hundred thousand, such as of a token more or less in a large step."""
    wrong = [{name: gradient * (1 + 1e-5) for name, gradient in one.items()} for one in accumulated]
    with pytest.raises(AssertionError):
        assert_equal(wrong, accumulated)
