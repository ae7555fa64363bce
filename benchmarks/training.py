"""Supervised tokens per second of the training step, against TRL's SFTTrainer and the Hugging Face Trainer.

    make bench-training        (installs TRL beside the project's packages, then runs `python benchmarks/training.py`)

All train SmolLM2-135M on the same conversations in the same order: trajectories of the environments' experts and
bundled dialogues, 0.2 of the items from agents, and once more agent items alone. Every optimizer step has the same
items and the same labels for all, and fills four rows of 2,048 tokens with either packer (steps that do not are left
out beforehand). All compute in bfloat16 with float32 master weights and fused AdamW, in one process of two threads
with tcmalloc. Each contestant runs in a process of its own; the first steps of each do not count.

- `plain`: this framework, packed, on plain PyTorch. `shared`: the same, shared beginnings once.
- `trl`: SFTTrainer, its own `bfd` packing of every step's items, assistant labels, padding-free, no recomputation.
- `trainer`: Hugging Face Trainer, padded batches of four conversations.
- `zero`: this framework under ZeRO-3 with one worker, with one and with four rows a step, against `plain` on the same.
- `planning`: CPU seconds to pack a million items and to plan a run of as many; no peer.
- `gpu_*`, where there is a GPU: a random Llama of 1.1 B parameters on rows of 4,096, both with their best attention;
  tokens per second and the share of the GPU's peak (`mfu`). Elsewhere the report says what would run.

Writes benchmarks/results/training.json with ratios of one run; other `--steps` or `--only` make it a trial, see
`bench`. A second busy job slows a step tenfold.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import add_options, idle_load, machine, write_result
from training_parts import gpu_peak, large_model, step_flops, time_planning


@dataclass(frozen=True)
class Kind:
    """What a contest trains: the items of a step, and the rows that they fill."""

    items: int
    rows: int = 4
    row_tokens: int = 2048
    agent_only: bool = False
    gpu: bool = False


KINDS = {
    "mixed": Kind(20),
    "agent": Kind(9, agent_only=True),
    "one": Kind(5, rows=1),
    "gpu": Kind(55, row_tokens=4096, gpu=True),
    "gpu_agent": Kind(19, row_tokens=4096, agent_only=True, gpu=True),
}
RATE = 2e-5
STEPS, WARM = 6, 2
"""Steps of each contestant, and how many of them do not count."""
PADDED = 4
CONTESTS = {
    "plain": ("mixed", "ours"),
    "trl": ("mixed", "trl"),
    "trainer": ("mixed", "trainer"),
    "shared": ("mixed", "ours --shared"),
    "zero_4": ("mixed", "ours --zero"),
    "trl_agent": ("agent", "trl"),
    "shared_agent": ("agent", "ours --shared"),
    "plain_agent": ("agent", "ours"),
    "plain_1": ("one", "ours"),
    "zero_1": ("one", "ours --zero"),
    "gpu_plain": ("gpu", "ours"),
    "gpu_trl": ("gpu", "trl"),
    "gpu_shared": ("gpu", "ours --shared"),
    "gpu_trl_agent": ("gpu_agent", "trl"),
    "gpu_shared_agent": ("gpu_agent", "ours --shared"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    here = contests_here()
    parser.add_argument("--only", nargs="*", choices=here, default=here)
    add_options(parser)
    parser.add_argument("--worker", nargs=3, metavar=("WHO", "DATA", "KIND"), help=argparse.SUPPRESS)
    parser.add_argument("--shared", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--zero", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        who, data, kind = options.worker
        contest = {"ours": train_ours, "trl": train_trl, "trainer": train_trainer}[who]
        found = contest(Path(data), kind, options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print("RESULT " + json.dumps({**found, "peak_mib": peak}), flush=True)
        return
    load = idle_load(options)
    with tempfile.TemporaryDirectory(prefix="bench-training-") as scratch:
        data = Path(scratch)
        about = make_data(data)
        found = {}
        for name in options.only:
            kind, who = CONTESTS[name]
            found[name] = run(who.split(), data, kind, options.steps)
            print(f"{name:14}{found[name]['supervised_per_second']:9.0f} supervised tokens/s", flush=True)
    report = {
        **summarise(found),
        "runs": found,
        "data": about,
        "planning": time_planning(),
        "gpu": gpu_told(),
        "load_before": load,
        "machine": machine("cores", "python"),
    }
    write_result(report, "training", options, full=options.steps == STEPS and len(found) == len(here))
    print(json.dumps({k: v for k, v in report.items() if k != "runs"}, indent=2))


def contests_here() -> list[str]:
    """Return the contests that this machine can run."""
    import torch

    return [name for name, (kind, _) in CONTESTS.items() if torch.cuda.is_available() or not KINDS[kind].gpu]


def gpu_told() -> str:
    """Return which GPU it was, or what would run on one."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    contests = ", ".join(name for name, (kind, _) in CONTESTS.items() if KINDS[kind].gpu)
    return (
        f"not run: this machine has none. On one, {contests} would train a random Llama of 1.1 B parameters, "
        f"{KINDS['gpu'].rows} rows of {KINDS['gpu'].row_tokens} tokens a step, for tokens per second and MFU"
    )


def run(who: list[str], data: Path, kind: str, steps: int) -> dict[str, Any]:
    """Run one contestant in a process of its own, with the threads and the allocator that workers get."""
    from agenttuning.recipe import Training
    from agenttuning.training.ray_train import worker_environment

    environment = {
        **os.environ,
        **worker_environment(Training(use_gpu=KINDS[kind].gpu)),
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, __file__, "--steps", str(steps), "--worker", who[0], str(data), kind, *who[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return dict(json.loads(lines[0].removeprefix("RESULT ")))


def summarise(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the ratios, as far as their contestants ran."""

    def ratio(mine: str, other: str, key: str = "supervised_per_second") -> float | None:
        return round(found[mine][key] / found[other][key], 3) if {mine, other} <= found.keys() else None

    def overhead(zero: str, plain: str) -> float | None:
        return None if (r := ratio(plain, zero)) is None else round(r - 1, 3)

    curves = [found[name]["losses"] for name in ("plain", "trl", "trainer") if name in found]
    return {
        "ratios": {
            "vs_trl": ratio("plain", "trl"),
            "vs_trainer": ratio("plain", "trainer"),
            "vs_trl_shared": ratio("shared", "trl"),
            "vs_trl_agent_only": ratio("plain_agent", "trl_agent"),
            "vs_trl_agent_only_shared": ratio("shared_agent", "trl_agent"),
            "peak_memory_vs_trl": ratio("plain", "trl", "peak_mib"),
            "zero3_overhead": overhead("zero_1", "plain_1"),
            "zero3_overhead_4": overhead("zero_4", "plain"),
            "gpu_vs_trl": ratio("gpu_plain", "gpu_trl"),
            "gpu_vs_trl_shared": ratio("gpu_shared", "gpu_trl"),
            "gpu_vs_trl_agent_only_shared": ratio("gpu_shared_agent", "gpu_trl_agent"),
        },
        "gpu_mfu": {name: run["mfu"] for name, run in found.items() if run.get("mfu")},
        "loss_curve_max_difference": max((max(s) - min(s) for s in zip(*curves, strict=True)), default=None),
        "prefix_tokens_saved": {n: found[n]["saved"] for n in found if "shared" in n},
    }


def make_data(folder: Path) -> dict[str, Any]:
    """Play and curate agent items through the product's own stages, add dialogues, and encode all of them."""
    from transformers import AutoTokenizer

    from agenttuning.conversations.trajectories import conversation_from_trajectory
    from agenttuning.evaluation.material import bundled_dialogues
    from agenttuning.models import resolve_model
    from agenttuning.recipe import Model
    from agenttuning.rendering.renderer import renderer_for
    from agenttuning.storage import Store
    from agenttuning.storage.segments import table_trajectories
    from agenttuning.training.encode import encode_conversations
    from agenttuning.trajectory import Conversation

    recipe = Path(__file__).parents[1] / "configs" / "held-in.yaml"
    words = [f"run.root={folder}", "rollout.tasks_per_environment=60"]
    for verb in ("generate", "curate"):
        command = [str(Path(sys.executable).parent / "agenttuning"), verb, "--recipe", str(recipe), *words]
        subprocess.run(command, check=True, capture_output=True)
    model = resolve_model(Model(), folder / "models")
    renderer = renderer_for(AutoTokenizer.from_pretrained(model), str(model))
    kept = table_trajectories(Store(str(folder / "held-in" / "curated")).read_table("kept.parquet"))
    dialogues = [Conversation(id=d.id, source="general", turns=d.turns()) for d in bundled_dialogues(1000)]
    about = {}
    for name, conversations in (
        ("agent", [conversation_from_trajectory(t) for t in kept]), ("general", dialogues),
    ):  # fmt: skip
        table, report = encode_conversations(conversations, renderer, KINDS["mixed"].row_tokens, "drop")
        Store(str(folder / "items")).write_table(f"{name}.parquet", table)
        about[name] = {"items": report.items, "tokens": report.tokens, "supervised": report.supervised}
    (folder / "model").write_text(str(model))
    return about


def model_of(data: Path, kind: str) -> Path:
    """Return the directory of the model that a kind of contest trains."""
    model = Path((data / "model").read_text())
    return large_model(data, model) if KINDS[kind].gpu else model


def chosen_steps(data: Path, kind: str, steps: int, shared: bool = False) -> tuple[Any, Any, list[int]]:
    """Return plan, items and the numbers of the first steps whose items fill the same number of rows."""
    from agenttuning.storage import Store
    from agenttuning.training.batch import load_items
    from agenttuning.training.plan import make_plan

    weights = {"agent": 1.0} if KINDS[kind].agent_only else {"agent": 0.2, "general": 0.8}
    items = load_items(Store(str(data / "items")), list(weights))
    counts = {name: source.counts for name, source in items.items()}
    separate = make_plan(counts, weights, recipe_section(kind, False), seed=1)
    spec = KINDS[kind]
    steps_of = range(separate.steps)
    good = [n for n in steps_of if len(separate.rows(n)) == spec.rows == bfd_rows(separate, items, n, kind)[1]]
    if len(good) < steps:
        sys.exit(f"{kind}: only {len(good)} of {separate.steps} steps fill {spec.rows} rows; change KINDS")
    plan = make_plan(counts, weights, recipe_section(kind, True), seed=1) if shared else separate
    return plan, items, good[:steps]


def recipe_section(kind: str, shared: bool, zero: bool = False) -> Any:
    """Return the training section that all contestants follow."""
    from agenttuning.recipe import Training

    return Training(
        steps=60, items_per_step=KINDS[kind].items, row_tokens=KINDS[kind].row_tokens, share_prefixes=shared,
        learning_rate=RATE, min_learning_rate_ratio=1.0, warmup_ratio=0.0, zero_stage=3 if zero else 0,
        dtype="bfloat16", use_gpu=KINDS[kind].gpu,
    )  # fmt: skip


def bfd_rows(plan: Any, items: Any, number: int, kind: str) -> tuple[list[dict[str, Any]], int]:
    """Return a step's items as TRL packs them (the packing's own algorithm is best-fit decreasing), and how many."""
    import datasets

    drawn = plan.trained(number)
    pairs = [items[source][index] for source, index in drawn]
    records = [{"input_ids": ids.tolist(), "labels": labels_of(ids, mask)} for ids, mask in pairs]
    try:
        from trl import pack_dataset
    except ImportError:
        sys.exit("TRL is not installed: run `make bench-training`")
    datasets.disable_progress_bars()
    packed = pack_dataset(datasets.Dataset.from_list(records), KINDS[kind].row_tokens, "bfd")
    return packed.to_list(), len(packed)


def labels_of(ids: Any, mask: Any) -> list[int]:
    """Return labels as Hugging Face counts them; the first token is predicted by nothing."""
    return [
        int(token) if trained and place else -100 for place, (token, trained) in enumerate(zip(ids, mask, strict=True))
    ]


def train_ours(data: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train with this framework's own step."""
    import torch

    from agenttuning.training.checkpoint import Progress
    from agenttuning.training.device import choose_numerics
    from agenttuning.training.engine import make_engine
    from agenttuning.training.ranks import join_ranks
    from agenttuning.training.step import run_step

    plan, items, numbers = chosen_steps(data, kind, options.steps, options.shared)
    training = recipe_section(kind, options.shared, options.zero)
    ranks = join_ranks(training.zero_stage, training.use_gpu)
    torch.manual_seed(0)
    engine = make_engine(model_of(data, kind), training, choose_numerics(training))
    progress, steps = Progress(), [plan.step(number) for number in numbers]
    for step in steps:
        run_step(engine, step, items, RATE, training, ranks, progress)
    tokens = [step.tokens for step in steps]
    saved = 1 - sum(step.computed for step in steps) / sum(tokens)
    seconds = [m["seconds"] for m in progress.history]
    found = told([m["loss"] for m in progress.history], seconds, [step.supervised for step in steps], round(saved, 4))
    if training.use_gpu:
        found["tokens_per_second"] = sum(tokens[WARM:]) / sum(seconds[WARM:])
        found["mfu"] = sum(step_flops(engine, step) for step in steps[WARM:]) / sum(seconds[WARM:]) / gpu_peak()
    return found


def told(losses: list[float], seconds: list[float], supervised: list[int], saved: float = 0.0) -> dict[str, Any]:
    """Return what a contestant reached behind its first steps."""
    rate = sum(supervised[WARM:]) / sum(seconds[WARM:])
    return {
        "supervised_per_second": rate,
        "losses": losses,
        "seconds": seconds,
        "supervised": supervised,
        "saved": saved,
    }


def arguments(data: Path, accumulate: int, gpu: bool = False, **more: Any) -> dict[str, Any]:
    """Return what both of Hugging Face's trainers are told."""
    return dict(
        output_dir=str(data / "out"), gradient_accumulation_steps=accumulate, learning_rate=RATE, num_train_epochs=1,
        lr_scheduler_type="constant", adam_beta1=0.9, adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0, bf16=True,
        use_cpu=not gpu, optim="adamw_torch_fused", logging_steps=1, save_strategy="no", report_to=[], seed=0,
        disable_tqdm=True, dataloader_num_workers=0, gradient_checkpointing=False, **more,
    )  # fmt: skip


def timed_trainer(base: type) -> Any:
    """Return a trainer of a class that goes through the data in order, and a callback that takes the times."""
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    class InOrder(base):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    class Times(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.losses: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.monotonic() - self.begun)

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any], **__: Any) -> None:
            if "loss" in logs:
                self.losses.append(float(logs["loss"]))

    return InOrder, Times()


def load_float32(data: Path, kind: str) -> Any:
    """Return the model as Hugging Face's trainers want it for bfloat16 with float32 master weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from agenttuning.training.varlen_attention import installed

    torch.manual_seed(0)
    # The newest flash-attention that is installed, as ours takes; `varlen` is ours alone.
    attention = next((k for k in installed() if KINDS[kind].gpu and k.startswith("flash")), "sdpa")
    model = AutoModelForCausalLM.from_pretrained(
        model_of(data, kind), dtype=torch.float32, attn_implementation=attention
    )
    return model.train()


def train_trl(data: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train with TRL's SFTTrainer on rows that its own packer made of every step's items."""
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    plan, items, numbers = chosen_steps(data, kind, options.steps)
    packed = [bfd_rows(plan, items, number, kind)[0] for number in numbers]
    rows = [row for step in packed for row in step]
    in_order, times = timed_trainer(SFTTrainer)
    settings = SFTConfig(
        **arguments(data, len(packed[0]), KINDS[kind].gpu, per_device_train_batch_size=1), packing=True,
        packing_strategy="bfd", max_length=KINDS[kind].row_tokens, shuffle_dataset=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained((data / "model").read_text())
    trainer = in_order(
        model=load_float32(data, kind), args=settings, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[times],
    )  # fmt: skip
    trainer.train()
    return told(
        times.losses, times.seconds, [sum(label != -100 for r in step for label in r["labels"]) for step in packed]
    )


def train_trainer(data: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train with Hugging Face's Trainer on padded batches of four conversations."""
    import datasets
    import torch
    from transformers import Trainer, TrainingArguments

    plan, items, numbers = chosen_steps(data, kind, options.steps)
    steps = [[items[source][index] for source, index in plan.trained(number)] for number in numbers]
    records = [{"input_ids": i.tolist(), "labels": labels_of(i, m)} for step in steps for i, m in step]

    def pad(batch: list[dict[str, Any]]) -> dict[str, Any]:
        longest = max(len(b["input_ids"]) for b in batch)
        fills = {"input_ids": 0, "labels": -100, "attention_mask": 0}
        full = [{**b, "attention_mask": [1] * len(b["input_ids"])} for b in batch]
        return {k: torch.tensor([b[k] + [f] * (longest - len(b[k])) for b in full]) for k, f in fills.items()}

    in_order, times = timed_trainer(Trainer)
    settings = TrainingArguments(**arguments(data, KINDS[kind].items // PADDED, per_device_train_batch_size=PADDED))
    trainer = in_order(
        model=load_float32(data, kind), args=settings, train_dataset=datasets.Dataset.from_list(records),
        data_collator=pad, callbacks=[times],
    )  # fmt: skip
    trainer.train()
    return told(times.losses, times.seconds, [sum(int(m[1:].sum()) for _, m in step) for step in steps])


if __name__ == "__main__":
    main()
