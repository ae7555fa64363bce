"""Float32 master weights of a checkpoint by name, each read from disk only when it is used.

Of a file only the description is loaded, which says where in it each tensor's values lie, so that a whole model passes
through memory one weight at a time: the 16-bit weights and optimizer states beside them are never read. (Mapped files
would do the same, but count as the process's memory once they were touched.) ZeRO checkpoints keep flat pieces of all
weights in a file per rank; which piece belongs to which weight follows from the shapes that every checkpoint carries.
Weights of base models come from their safetensors.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agenttuning.errors import DataError
from agenttuning.training.plain import STATE
from agenttuning.training.zero import PREFIX, TAG

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of safetensors."""


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of a file."""

    path: Path
    offset: int
    size: int

    def part(self, begin: int, size: int) -> "Piece":
        """Return at most `size` bytes from `begin` on."""
        return Piece(self.path, self.offset + begin, min(size, self.size - begin))


@dataclass(frozen=True)
class StoredWeight:
    """A weight on disk.

    Attributes:
        shape: of the weight.
        dtype: of its stored values.
        pieces: where they lie, in order; the last may go on beyond the weight's end.
    """

    shape: torch.Size
    dtype: torch.dtype
    pieces: tuple[Piece, ...]

    def read(self) -> torch.Tensor:
        """Return the weight.

        Raises:
            DataError: a file is shorter than it says.
        """
        whole = torch.empty(self.shape, dtype=self.dtype)
        flat, done = whole.view(-1).view(torch.uint8).numpy(), 0
        for piece in self.pieces:
            count = min(piece.size, len(flat) - done)
            with piece.path.open("rb", buffering=0) as file:
                file.seek(piece.offset)
                while count and (got := file.readinto(memoryview(flat[done : done + count]))):  # type: ignore[arg-type]
                    done, count = done + got, count - got
        if done != len(flat):
            raise DataError(f"{self.pieces[0].path}: is torn; export from another checkpoint")
        return whole


def read_master_weights(directory: Path) -> dict[str, StoredWeight]:
    """Return what a checkpoint of either engine holds: trained weights in float32, frozen ones where it has them.

    Args:
        directory: of the checkpoint.

    Raises:
        DataError: a file is missing or of another form.
    """
    try:
        if (directory / STATE).is_file():
            weights = _described(directory / STATE, weights_only=True)["weights"]
            return {n: StoredWeight(w.shape, w.dtype, (_piece(directory / STATE, w),)) for n, w in weights.items()}
        return _zero_weights(directory / TAG)
    except (OSError, KeyError, IndexError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{directory}: not a whole checkpoint ({type(error).__name__}: {error}); export from another one"
        ) from error


def read_base_weights(directory: Path) -> dict[str, StoredWeight]:
    """Return the weights of a model's safetensors."""
    found: dict[str, StoredWeight] = {}
    for path in sorted(directory.glob("*.safetensors")):
        header, begin = read_header(path)
        for name, about in header.items():
            dtype = DTYPES.get(about["dtype"])
            if dtype is None:
                raise DataError(f"{path}: {name} is of dtype {about['dtype']}; known are {', '.join(DTYPES)}")
            start, stop = about["data_offsets"]
            found[name] = StoredWeight(torch.Size(about["shape"]), dtype, (Piece(path, begin + start, stop - start),))
    return found


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return dtype, shape and place of every tensor of a safetensors file, and where the first of them begins."""
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size


def _zero_weights(directory: Path) -> dict[str, StoredWeight]:
    """Find every weight's pieces in the files of all ranks (`zero_to_fp32` of DeepSpeed reads the same layout)."""
    from deepspeed.checkpoint.constants import (
        FP32_FLAT_GROUPS,
        FROZEN_PARAM_FRAGMENTS,
        FROZEN_PARAM_SHAPES,
        OPTIMIZER_STATE_DICT,
        PARAM_ALIGNMENT_PADDINGS,
        PARAM_SHAPES,
        PARTITION_COUNT,
        SINGLE_PARTITION_OF_FP32_GROUPS,
        ZERO_STAGE,
    )

    files = _files(directory, "optim_states")
    ranks = [_described(path)[OPTIMIZER_STATE_DICT] for path in files]
    stage, world = ranks[0][ZERO_STAGE], ranks[0][PARTITION_COUNT]
    world = max(world) if isinstance(world, list) else world
    if len(ranks) != world:
        raise ValueError(f"{world} ranks saved it, files of {len(ranks)} are here")
    model_files = _files(directory, "model_states")
    models = [_described(path) for path in model_files[: None if stage == 3 else 1]]
    shapes: list[Mapping[str, torch.Size]] = models[0][PARAM_SHAPES]
    found: dict[str, StoredWeight] = {}
    frozen: Mapping[str, torch.Size] = models[0].get(FROZEN_PARAM_SHAPES) or {}
    for name, shape in frozen.items():
        held = [model[FROZEN_PARAM_FRAGMENTS][name] for model in models]
        pieces = tuple(_piece(path, fragment) for path, fragment in zip(model_files, held, strict=False))
        found[name] = StoredWeight(torch.Size(shape), held[0].dtype, pieces)

    def add(name: str, shape: torch.Size, pieces: Iterator[Piece]) -> None:
        found[name] = StoredWeight(torch.Size(shape), torch.float32, tuple(pieces))

    if stage == 3:
        flats = [[_piece(p, t) for t in rank[FP32_FLAT_GROUPS]] for p, rank in zip(files, ranks, strict=True)]
        begin = 0
        for name, shape in ((n, s) for group in shapes for n, s in group.items()):
            share = 4 * math.ceil(shape.numel() / world)
            add(name, shape, (piece for flat in flats for piece in _cut(flat, begin, share)))
            begin += share
    else:
        paddings = ranks[0].get(PARAM_ALIGNMENT_PADDINGS) or [[0] * len(group) for group in shapes]
        for number, (group, padding) in enumerate(zip(shapes, paddings, strict=True)):
            flat = [
                _piece(p, rank[SINGLE_PARTITION_OF_FP32_GROUPS][number]) for p, rank in zip(files, ranks, strict=True)
            ]
            begin = 0
            for (name, shape), gap in zip(group.items(), padding, strict=True):
                add(name, shape, _cut(flat, begin, 4 * shape.numel()))
                begin += 4 * (shape.numel() + gap)
    # Tied weights come once, under the name that files carry.
    return {name.removeprefix(PREFIX): weight for name, weight in found.items() if name.startswith(PREFIX)}


def _cut(pieces: list[Piece], begin: int, size: int) -> Iterator[Piece]:
    """Yield `size` bytes from `begin` on of several pieces taken as one."""
    for piece in pieces:
        if size and begin < piece.size:
            part = piece.part(begin, size)
            yield part
            begin, size = begin + part.size, size - part.size
        begin = max(begin - piece.size, 0)
    if size:
        raise ValueError(f"a weight goes on for {size} bytes behind the end of the ranks' files")


def _files(directory: Path, kind: str) -> list[Path]:
    """Return the files of all ranks in their order."""

    def rank(path: Path) -> int:
        return int(path.name.partition("pp_rank_")[2].partition("_")[0] or 0)

    found = sorted(directory.glob(f"*_{kind}.pt"), key=rank)
    if not found:
        raise FileNotFoundError(f"no file *_{kind}.pt in {directory.name}/")
    return found


def _described(path: Path, weights_only: bool = False) -> dict[str, Any]:
    """Load a file of `torch.save` without its tensors' values."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # DeepSpeed's files hold plain Python objects of its own; the run wrote them itself.
    with FakeTensorMode():
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=weights_only)
    return found


def _piece(path: Path, described: torch.Tensor) -> Piece:
    if not described.is_contiguous():
        raise ValueError(f"a tensor of {path.name} does not lie in one piece")
    storage: Any = described.untyped_storage()
    begin = storage._checkpoint_offset + described.storage_offset() * described.dtype.itemsize
    return Piece(path, begin, described.numel() * described.dtype.itemsize)
