"""The model card: what the tuned model is, what it was trained on, with which numbers and recipe."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from agenttuning.models import BUNDLED, BUNDLED_ID
from agenttuning.recipe import Recipe, Source, Training, dump_recipe
from agenttuning.training.summary import TrainSummary

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SourceTerms = Mapping[str, Mapping[str, Mapping[str, int]]]
"""By source of the mixture: its items by `licence`, and by `teacher_terms`."""
_KINDS = {"trajectories": "this run's own trajectories", "self": "the base model's own answers to bundled instructions"}


def model_card(
    recipe: Recipe, base: Path, summary: TrainSummary | None, info: dict[str, Any], terms: SourceTerms
) -> str:
    """Return README.md.

    Args:
        recipe: of the run.
        base: the base model's directory.
        summary: of the training; None where it has not finished.
        info: what `export_model` returned.
        terms: licences and teacher's terms of the mixture's items; empty where the mixture is not stored.
    """
    name = _base_name(recipe)
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if name is not None:
        front["base_model"] = name
    if (license_name := _license(recipe, base)) is not None:
        front["license"] = license_name
    if datasets := [s.path for s in recipe.mixture.sources.values() if _is_hub_id(s.path)]:
        front["datasets"] = datasets
    front["tags"] = ["agent", "agent-tuning", *sorted(recipe.environments)]
    title = f"{(name or recipe.model.path).rpartition('/')[2]}, tuned as an agent ({recipe.run.name})"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False).rstrip()}\n---",
        f"# {title}",
        f"A model of {info['parameters']:,} parameters in {info['dtype']}, made with AgentTuning: "
        f"{_method(recipe.training)} of `{name or recipe.model.path}` on a mixture of agent trajectories and general "
        "conversations. It is prompted with the base model's own chat template and ends its turns with the same token.",
        "## Mixture\n\n" + _mixture(recipe, summary) + _terms(terms),
        "## Training\n\n" + _training(summary, info),
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained(".")\ntokenizer = AutoTokenizer.from_pretrained(".")\n```\n\n'
        "or `vllm serve .`",
        f"## Recipe\n\n```yaml\n{dump_recipe(recipe).rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _method(training: Training) -> str:
    if training.lora is not None:
        kind = "QLoRA" if training.lora.quantize else "LoRA"
        return f"fine-tuning by low-rank adapters ({kind}, rank {training.lora.rank}), merged into the weights,"
    if training.freeze_embeddings:
        return "fine-tuning, token embeddings and output head left as they were,"
    return "full fine-tuning"


def _base_name(recipe: Recipe) -> str | None:
    if recipe.model.path == BUNDLED:
        return BUNDLED_ID
    return recipe.model.path if _is_hub_id(recipe.model.path) else None


def _is_hub_id(path: str | None) -> bool:
    return path is not None and _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def _license(recipe: Recipe, base: Path) -> str | None:
    """Return the base model's licence: a tuned model inherits it."""
    if recipe.model.path == BUNDLED:
        return "apache-2.0"
    readme = base / "README.md"
    found = re.match(r"---\n(.*?)\n---", readme.read_text(errors="replace"), re.S) if readme.is_file() else None
    front = yaml.safe_load(found[1]) if found else None
    return str(front["license"]) if isinstance(front, dict) and "license" in front else None


def _mixture(recipe: Recipe, summary: TrainSummary | None) -> str:
    total = sum(s.weight for s in recipe.mixture.sources.values())
    lines = ["| source | from | asked share | items | share | epochs |", "|---|---|---|---|---|---|"]
    for name, source in recipe.mixture.sources.items():
        realised = ("", "", "")
        if summary is not None and name in summary.items:
            share, epochs = summary.item_share[name], summary.epochs[name]
            realised = (f"{summary.items[name]:,}", f"{share:.3f}", f"{epochs:.2f}")
        lines.append(f"| {name} | {_origin(source)} | {source.weight / total:.3f} | {' | '.join(realised)} |")
    return "\n".join(lines)


def _terms(terms: SourceTerms) -> str:
    """Return what the training text may be used for, with the number of items; nothing where nothing is known."""
    if not terms:
        return ""
    lines = ["| source | licence (items) | teacher's terms (items) |", "|---|---|---|"]
    for name, counts in terms.items():
        told = (_counted(counts.get(key, {})) for key in ("licence", "teacher_terms"))
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n\nWhat the text may be used for, as its sources state it:\n\n" + "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{text.replace('|', '/')} ({count:,})" for text, count in counts.items())


def _origin(source: Source) -> str:
    return source.path or _KINDS.get(source.kind, source.kind)


def _training(summary: TrainSummary | None, info: dict[str, Any]) -> str:
    if summary is None:
        return f"Training had not finished: these are the weights after step {info['step']} (`{info['source']}`)."
    told = "an unknown loss"
    if summary.first_loss is not None and summary.last_loss is not None:
        told = f"a loss from {summary.first_loss:.3f} at the first step to {summary.last_loss:.3f} at the end"
    return (
        f"{summary.steps:,} steps on {summary.tokens:,} tokens, {summary.supervised_tokens:,} of them supervised, with "
        f"{told}; {summary.workers} worker(s) on {summary.device.partition(':')[0]} in {summary.dtype}, "
        f"{summary.tokens_per_second:,.0f} tokens per second, rows {summary.packing_efficiency:.1%} full.\n\n"
        + "\n".join(f"- {note}" for note in summary.notes)
    )
