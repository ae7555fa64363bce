"""What only a GPU can show: the kernels for packed rows, training with them, its memory, and offload."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import VOCABULARY, exported_weights, plan_for, small_training, write_items

from agenttuning.recipe import Training
from agenttuning.storage import Store
from agenttuning.training.architectures import shape_of
from agenttuning.training.attention import attention_arguments, packed_attention, segment_attention
from agenttuning.training.batch import Batch, load_items
from agenttuning.training.device import choose_numerics
from agenttuning.training.engine import make_engine
from agenttuning.training.loop import TrainConfig, train
from agenttuning.training.memory import tensor_bytes
from agenttuning.training.summary import TrainSummary
from agenttuning.training.varlen_attention import installed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; this machine has none")

ROWS: list[tuple[list[int], list[int | None]]] = [
    ([300, 7, 200], [None, None, None]),
    ([160, 90, 33, 120, 50, 64], [None, 0, 0, 2, 2, None]),
]
"""Segments of a row and what each continues: items apart, and a tree of two levels beside another item."""


@pytest.mark.parametrize("kernel", installed())
@pytest.mark.parametrize(("lengths", "parents"), ROWS, ids=["apart", "tree"])
def test_a_kernel_gives_the_values_and_gradients_of_exact_attention(
    kernel: str, lengths: list[int], parents: list[int | None]
) -> None:
    """bfloat16 on the GPU against float64 on the CPU, on the inputs as bfloat16 holds them."""
    torch.manual_seed(0)
    shapes = [(1, 8, sum(lengths), 64), (1, 2, sum(lengths), 64), (1, 2, sum(lengths), 64)]
    low = [torch.randn(shape).bfloat16() for shape in shapes]
    exact, there = [x.double().requires_grad_() for x in low], [x.cuda().requires_grad_() for x in low]
    layer = torch.nn.Identity()
    wanted, _ = segment_attention(layer, *exact, None, segment_lengths=lengths, segment_parents=parents)
    told = attention_arguments(lengths, parents, kernel, "cuda")
    found, _ = packed_attention(layer, *there, None, kernel=kernel, **told)
    weights = torch.randn(wanted.shape).bfloat16()
    right = [wanted, *torch.autograd.grad((wanted * weights.double()).sum(), exact)]
    mine = [found, *torch.autograd.grad((found * weights.cuda()).sum(), there)]
    for one, other in zip(mine, right, strict=True):
        assert float((one.cpu().double() - other).norm() / other.norm()) < 0.01


def save_model(path: Path, hidden: int, layers: int) -> Path:
    """A random Llama with heads of 64, as the kernels want them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    (path / "tokenizer_config.json").write_text("{}")
    return path


def run(model: Path, items: Store, output: Path, **changes: Any) -> TrainSummary:
    training = small_training(dtype="bfloat16", learning_rate=1e-3, row_tokens=256, items_per_step=10, **changes)
    encoded = load_items(items, ["agent", "general"])
    found = train(TrainConfig(training, model, Store(str(output)), seed=1), plan_for(encoded, training), encoded)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "changes",
    [{}, {"activation_checkpointing": True}, {"zero_stage": 3}, {"zero_stage": 3, "offload_optimizer": True}],
    ids=["plain", "recomputed", "zero3", "zero3-offload"],
)
def test_a_gpu_trains_what_a_cpu_does(changes: dict[str, Any], tmp_path: Path) -> None:
    """Ten steps in bfloat16 with shared beginnings."""
    model, items = save_model(tmp_path / "model", 256, 2), write_items(tmp_path / "items", common=70)
    here, there = run(model, items, tmp_path / "cpu"), run(model, items, tmp_path / "gpu", use_gpu=True, **changes)
    assert there.prefix_tokens_saved == here.prefix_tokens_saved > 0
    assert there.first_loss == pytest.approx(here.first_loss, rel=0.005)
    assert there.last_loss == pytest.approx(here.last_loss, rel=0.02)
    weights = (exported_weights(Store(str(tmp_path / name))) for name in ("gpu", "cpu"))
    mine, other = weights
    for name, weight in other.items():
        assert float((mine[name].float() - weight.float()).norm() / weight.float().norm()) < 0.02


@pytest.mark.parametrize("recompute", [False, True])
def test_counted_bytes_are_those_of_the_gpu_within_a_tenth(recompute: bool, tmp_path: Path) -> None:
    """The most that PyTorch had allocated in a step, of a model of 110 M parameters on a row of 4,096 tokens."""
    model = save_model(tmp_path, 1024, 8)
    training = Training(
        zero_stage=0, use_gpu=True, dtype="bfloat16", row_tokens=4096, activation_checkpointing=recompute
    )
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    engine = make_engine(model, training, choose_numerics(training))
    counted = tensor_bytes(shape_of(engine.causal.config.to_dict()), training, "bfloat16", training.row_tokens)
    row = torch.randint(0, VOCABULARY, (1, 4096))
    places = torch.arange(4096)
    batch = Batch(row, places[None], places[:-1], row[0, 1:], torch.ones(4095), torch.zeros(4095, dtype=torch.long),
                  [4096], [None])  # fmt: skip
    for _ in range(2):
        total, _losses = engine.losses(batch, 1 / 4095)
        engine.backward(total, last=True)
        engine.step(1e-4)
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(sum(counted.values()), rel=0.1)
