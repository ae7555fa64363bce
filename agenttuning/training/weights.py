"""Weights by name, streamed into safetensors shards: from an engine in training, or from a checkpoint.

Which weight goes where in which shard follows from the shapes alone, so a shard's header is written first and every
weight behind it as it comes: one weight is the most that is ever held. The files are those of `save_pretrained`: one
`model.safetensors`, or numbered shards with an index.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch

from agenttuning.errors import DataError, StorageError
from agenttuning.recipe import Lora
from agenttuning.storage import Store
from agenttuning.training.checkpoint import COMPLETE, fetched_checkpoint, scratch_directory
from agenttuning.training.lora import BASE, DOWN, UP, merge, merged_shapes
from agenttuning.training.master_weights import DTYPES, StoredWeight, read_base_weights, read_master_weights

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
        chosen = _in_order(shard, weights)
        if store is None:
            for _ in chosen:
                pass
        else:
            _write_shard(store, name, {w: shapes[w] for w in shard}, chosen, dtype)
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
    training: Store,
    name: str,
    dtype: torch.dtype,
    store: Store,
    base: Path,
    lora: Lora | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the weights that a checkpoint holds, without a process group and without the model.

    Args:
        training: store of the training stage.
        name: of the checkpoint, as `latest_checkpoint` gives it.
        dtype: of the files.
        store: where to.
        base: the base model, for weights that were frozen and so are in no checkpoint.
        lora: the recipe's section.
        shard_bytes: most bytes of one file, unless a single weight is larger.

    Raises:
        DataError: the checkpoint lacks a file.
    """
    if not training.exists(f"{name}/{COMPLETE}"):
        raise DataError(f"{training.uri}/{name}: no complete checkpoint; run `agenttuning train` first")
    with fetched_checkpoint(training, name) as directory:
        found = _with_frozen(read_master_weights(directory), base)
        shapes = {name: weight.shape for name, weight in found.items()}
        # Adapters are merged as training computed with them, so that this gives what a finished training wrote.
        computed = getattr(torch, training.read_json(f"{name}/{COMPLETE}")["identity"]["dtype"])
        weights: Iterator[tuple[str, torch.Tensor]] = (
            (name, weight.read().to(computed)) for name, weight in found.items()
        )
        if lora is not None:
            shapes, weights = merged_shapes(shapes), merge(weights, lora)
        write_weights(shapes, weights, dtype, store, shard_bytes)


def upload_files(directory: Path, store: Store) -> None:
    """Copy the files of a local directory into a remote store, streaming."""
    filesystem, base = pafs.FileSystem.from_uri(store.uri)
    pafs.copy_files(str(directory), base, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=filesystem)


def _with_frozen(found: dict[str, StoredWeight], base: Path) -> dict[str, StoredWeight]:
    """Return weights and adapters in the base model's order, what a checkpoint lacks from the base model's files."""
    whole: dict[str, StoredWeight] = {}
    for name, weight in read_base_weights(base).items():
        stem = name.removesuffix(".weight")
        if stem + DOWN in found:
            whole[stem + BASE] = found.pop(stem + BASE, weight)
            whole |= {stem + end: found.pop(stem + end) for end in (DOWN, UP)}
        else:
            whole[name] = found.pop(name, weight)
    return {**whole, **found}


def _in_order(names: list[str], weights: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the next weights, which must have these names."""
    for expected in names:
        found, weight = next(weights)
        assert found == expected, f"weights come as {found}, expected {expected}"
        yield found, weight


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


def _write_shard(
    store: Store,
    name: str,
    shapes: Mapping[str, torch.Size],
    weights: Iterator[tuple[str, torch.Tensor]],
    dtype: torch.dtype,
) -> None:
    root = store.local_path()
    try:
        with scratch_directory("weights", root) as scratch:
            with (Path(scratch) / name).open("wb") as file:
                file.write(_header(shapes, dtype))
                for _, weight in weights:
                    narrow = weight.detach().to("cpu", dtype).contiguous()
                    narrow.view(-1).view(torch.uint8).numpy().tofile(file)
                file.flush()
                os.fsync(file.fileno())
            if root is None:
                upload_files(Path(scratch), store)
            else:
                os.replace(Path(scratch) / name, root / name)
    except OSError as error:
        raise StorageError(
            f"{store.uri}/{name}: the weights cannot be written ({error}); free space there, then run the same command "
            "again: it continues"
        ) from error


def _header(shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> bytes:
    """Return what stands before the values in a safetensors file: the header's length and the header."""
    (known,) = [name for name, found in DTYPES.items() if found == dtype]
    about: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + shape.numel() * dtype.itemsize
        about[name] = {"dtype": known, "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(about, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header
