"""Weights by name, streamed into safetensors shards: from an engine in training, or from a checkpoint.

Which weight goes into which shard follows from the shapes alone, so tensors are written as they come, and one shard
is the most that is ever held. The files are those of `save_pretrained`: one `model.safetensors`, or numbered shards
with an index.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch
from safetensors import safe_open

from agenttuning.errors import DataError, StorageError
from agenttuning.recipe import Lora
from agenttuning.storage import Store
from agenttuning.training.checkpoint import COMPLETE, fetched_checkpoint
from agenttuning.training.lora import BASE, DOWN, UP, merge, merged_shapes
from agenttuning.training.plain import STATE
from agenttuning.training.zero import PREFIX, TAG

WEIGHTS = "weights"
"""Directory of a finished training stage."""

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


def write_weights(
    shapes: Mapping[str, torch.Size],
    weights: Iterator[tuple[str, torch.Tensor]],
    dtype: torch.dtype,
    store: Store | None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write weights as safetensors.

    Args:
        shapes: full shape of every weight, in the order in which they come.
        weights: the weights; gone through to the end on every rank.
        dtype: of the files.
        store: where to; None on ranks that only take part in gathering.
        shard_bytes: most bytes of one file, unless a single weight is larger.

    Raises:
        StorageError: the disk is full or the store does not answer.
    """
    shards = _assign(shapes, dtype.itemsize, shard_bytes)
    names = _file_names(len(shards))
    for name, shard in zip(names, shards, strict=True):
        held = {}
        for expected in shard:
            found, tensor = next(weights)
            assert found == expected, f"weights come as {found}, expected {expected}"
            if store is not None:
                held[found] = tensor.to("cpu", dtype, copy=True).contiguous()
        if store is not None:
            _write_shard(store, name, held)
    # The generator's last gathering ends only when it is asked once more.
    assert next(weights, None) is None
    if store is not None and len(shards) > 1:
        total = sum(shape.numel() for shape in shapes.values()) * dtype.itemsize
        located = {w: name for name, shard in zip(names, shards, strict=True) for w in shard}
        store.write_json(INDEX, {"metadata": {"total_size": total}, "weight_map": located})


def exported_dtype(model_dir: Path, trained: str) -> torch.dtype:
    """Return the dtype of the tuned model's files: bfloat16 where it trained so, else that of the base model's files.

    Args:
        model_dir: the base model.
        trained: dtype that training computed in.
    """
    if trained == "bfloat16":
        return torch.bfloat16
    config = json.loads((model_dir / "config.json").read_text())
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def write_checkpoint_weights(
    training: Store, name: str, dtype: torch.dtype, store: Store, base: Path, lora: Lora | None = None
) -> None:
    """Write the weights that a checkpoint holds, without a process group and without the model.

    Args:
        training: store of the training stage.
        name: of the checkpoint, as `latest_checkpoint` gives it.
        dtype: of the files.
        store: where to.
        base: the base model, for weights that were frozen and so are in no checkpoint.
        lora: the recipe's section.

    Raises:
        DataError: the checkpoint lacks a file.
    """
    if not training.exists(f"{name}/{COMPLETE}"):
        raise DataError(f"{training.uri}/{name}: no complete checkpoint; run `agenttuning train` first")
    with fetched_checkpoint(training, name) as directory:
        found = _with_frozen(_checkpoint_weights(directory), base)
        shapes = {name: torch.Size(_shape(tensor)) for name, tensor in found.items()}
        weights: Iterator[tuple[str, torch.Tensor]] = ((name, _whole(tensor)) for name, tensor in found.items())
        if lora is not None:
            shapes, weights = merged_shapes(shapes), merge(weights, lora)
        write_weights(shapes, weights, dtype, store)


def upload_files(directory: Path, store: Store) -> None:
    """Copy the files of a local directory into a remote store, streaming."""
    filesystem, base = pafs.FileSystem.from_uri(store.uri)
    pafs.copy_files(str(directory), base, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=filesystem)


def _checkpoint_weights(directory: Path) -> dict[str, Any]:
    """Return master weights by name, read from disk only when they are used."""
    if (directory / STATE).is_file():
        weights: dict[str, Any] = torch.load(directory / STATE, map_location="cpu", weights_only=True, mmap=True)[
            "weights"
        ]
        return weights
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        found = get_fp32_state_dict_from_zero_checkpoint(str(directory), tag=TAG, lazy_mode=True)
    except (OSError, ValueError, FileNotFoundError) as error:
        raise DataError(f"{directory}: not a whole ZeRO checkpoint ({error}); export from another one") from error
    unique: dict[str, Any] = {}
    for name, tensor in found.items():
        # Tied weights come under each of their names; the first is the one that files carry.
        if name.startswith(PREFIX) and not any(tensor is other for other in unique.values()):
            unique[name.removeprefix(PREFIX)] = tensor
    return unique


def _with_frozen(found: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return weights and adapters in the base model's order, what a checkpoint lacks from the base model's files."""
    whole: dict[str, Any] = {}
    for name, tensor in _files(base).items():
        stem = name.removesuffix(".weight")
        if stem + DOWN in found:
            whole[stem + BASE] = found.pop(stem + BASE, tensor)
            whole |= {stem + end: found.pop(stem + end) for end in (DOWN, UP)}
        else:
            whole[name] = found.pop(name, tensor)
    return {**whole, **found}


def _files(base: Path) -> dict[str, Any]:
    """Return a model's weights by name, each read when it is used."""
    found: dict[str, Any] = {}
    for path in sorted(base.glob("*.safetensors")):
        file: Any = safe_open(path, framework="pt")
        found |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return found


def _whole(tensor: Any) -> torch.Tensor:
    whole: torch.Tensor = tensor.contiguous() if hasattr(tensor, "contiguous") else tensor[:]
    return whole


def _shape(tensor: Any) -> Any:
    return tensor.shape if hasattr(tensor, "shape") else tensor.get_shape()


def _assign(shapes: Mapping[str, torch.Size], item_bytes: int, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, shape in shapes.items():
        size = shape.numel() * item_bytes
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]


def _write_shard(store: Store, name: str, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    root = store.local_path()
    try:
        if root is not None:
            root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=root) as scratch:
            save_file(tensors, Path(scratch) / name, metadata={"format": "pt"})
            if root is None:
                upload_files(Path(scratch), store)
                return
            (Path(scratch) / name).chmod(0o644)
            with (Path(scratch) / name).open("rb") as file:
                os.fsync(file.fileno())
            os.replace(Path(scratch) / name, root / name)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{store.uri}/{name}: the weights cannot be written ({error}); free space there, then run the same command "
            "again: it continues"
        ) from error
