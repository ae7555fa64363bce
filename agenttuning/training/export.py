"""The tuned model as a directory that plain `from_pretrained` and `vllm serve` load.

Weights come from a finished training stage, or from its newest checkpoint where training has not finished; config,
generation config, tokenizer and chat template are the base model's own, so both are prompted and stopped alike. Every
weight is compared by name and shape with the base model's before the directory counts as a model.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agenttuning.errors import DataError, StorageError
from agenttuning.recipe import Lora, Recipe, dump_recipe
from agenttuning.storage import Store
from agenttuning.training.card import SourceTerms, model_card
from agenttuning.training.checkpoint import COMPLETE, latest_checkpoint, scratch_directory
from agenttuning.training.master_weights import read_header
from agenttuning.training.summary import read_summary
from agenttuning.training.weights import SHARD_BYTES, WEIGHTS, exported_dtype, upload_files, write_checkpoint_weights

COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "LICENSE*", "NOTICE*")
"""What the tuned model takes over from the base model's directory."""

_NOT_COPIED = ("*.safetensors.index.json", "*.bin.index.json", "adapter_*")


def export_run(
    recipe: Recipe, base: Path, training: Store, model: Store, terms: SourceTerms | None = None
) -> dict[str, Any]:
    """Export a run's tuned model with its model card and recipe.

    Args:
        recipe: of the run.
        base: the base model's directory.
        training: store of the training stage.
        model: where the model goes.
        terms: licences and teacher's terms of the mixture's items, for the model card.

    Returns:
        `source` of the weights, `step`, `parameters`, `bytes` and `dtype`.

    Raises:
        DataError: there is nothing to export, or the weights are not those of this base model.
        StorageError: the model cannot be written.
    """
    summary = read_summary(training)
    info = export_model(base, training, model, recipe.training.lora, recipe.model.trust_remote_code)
    model.write("recipe.yaml", dump_recipe(recipe).encode())
    model.write("README.md", model_card(recipe, base, summary, info, terms or {}).encode())
    return info


def export_model(
    base: Path,
    training: Store,
    model: Store,
    lora: Lora | None = None,
    trust_remote_code: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write weights, config and tokenizer; the parts of `export_run` that a model needs to load.

    From a checkpoint weights go one by one from file to file. Those of a finished training are there already.

    Raises:
        DataError: there is nothing to export, or the weights are not those of this base model.
        StorageError: the model cannot be written.
    """
    summary = read_summary(training)
    name = latest_checkpoint(training) if summary is None else None
    if summary is None and name is None:
        raise DataError(f"{training.uri}: no finished training and no checkpoint; run `agenttuning train` first")
    with _staged(model) as directory:
        if name is None:
            _copy_weights(training.child(WEIGHTS), directory)
            step = summary.steps if summary is not None else 0
        else:
            about = training.read_json(f"{name}/{COMPLETE}")
            dtype = exported_dtype(base, about["identity"]["dtype"])
            write_checkpoint_weights(training, name, dtype, Store(str(directory)), base, lora, shard_bytes)
            step = about["step"]
        tensors = _tensors(directory)
        _check_tensors(tensors, _tensors(base), training)
        (dtype_name,) = {str(t["dtype"]) for t in tensors.values()}
        copy_companions(base, directory, trust_remote_code)
        _write_config(base, directory, _DTYPES[dtype_name])
    sizes = [t["data_offsets"][1] - t["data_offsets"][0] for t in tensors.values()]
    counts = [_count(t["shape"]) for t in tensors.values()]
    return {
        "source": WEIGHTS if name is None else name,
        "step": step,
        "parameters": sum(counts),
        "bytes": sum(sizes),
        "dtype": _DTYPES[dtype_name],
    }


def copy_companions(base: Path, directory: Path, code: bool) -> None:
    """Copy what a model's directory holds beside weights: config, tokenizer, chat template, licence; its code too."""
    patterns = (*COPIED, "*.py") if code else COPIED
    for file in sorted({f for p in patterns for f in base.glob(p)}):
        if file.is_file() and not any(file.match(p) for p in _NOT_COPIED):
            shutil.copyfile(file, directory / file.name)


_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@contextmanager
def _staged(model: Store) -> Iterator[Path]:
    """Give a directory that becomes the model when the block ends well."""
    root = model.local_path()
    try:
        with scratch_directory("model", root.parent if root is not None else None) as scratch:
            directory = Path(scratch) / "model"
            directory.mkdir()
            yield directory
            if root is None:
                upload_files(directory, model)
            else:
                shutil.rmtree(root, ignore_errors=True)
                directory.rename(root)
    except OSError as error:
        raise StorageError(
            f"{model.uri}: the model cannot be written ({error}); free space there, then run `agenttuning export` again"
        ) from error


def _copy_weights(weights: Store, directory: Path) -> None:
    if (root := weights.local_path()) is None:
        for name in weights.list():
            weights.fetch(name, directory / name)
        return
    for file in sorted(root.glob("model*")):
        try:
            # The files are never changed, only replaced: one copy on disk serves both directories.
            (directory / file.name).hardlink_to(file)
        except OSError:
            shutil.copyfile(file, directory / file.name)


def _write_config(base: Path, directory: Path, dtype: str) -> None:
    """Write the base model's config with the dtype of the files, and a generation config where it has none."""
    config = json.loads((base / "config.json").read_text())
    for key in ("torch_dtype", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config["dtype"] = dtype
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if not (directory / "generation_config.json").exists():
        generation = {
            k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(k) is not None
        }
        (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def _tensors(directory: Path) -> dict[str, dict[str, Any]]:
    """Return dtype, shape and place of every tensor from the headers of a directory's safetensors."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= read_header(file)[0]
    return found


def _check_tensors(tuned: dict[str, dict[str, Any]], base: dict[str, dict[str, Any]], training: Store) -> None:
    """Compare names and shapes; the tuned model may only lack names that are tied to one it has."""
    unknown = sorted(set(tuned) - set(base))
    wrong = [n for n in tuned if n in base and tuned[n]["shape"] != base[n]["shape"]]
    missing = [n for n in base if n not in tuned and not n.endswith(("lm_head.weight", ".inv_freq"))]
    if not tuned or unknown or wrong or missing:
        told = [
            f"{what} {names[:3]}"
            for what, names in (("unknown", unknown), ("other shape", wrong), ("missing", missing))
            if names
        ]
        raise DataError(
            f"{training.uri}: its weights are not those of the base model ({'; '.join(told) or 'none at all'}); export "
            "with the recipe that trained them"
        )


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
