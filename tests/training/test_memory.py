"""The memory model against real engines: what is alive between micro-steps, and at the peak of a step."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SIZES = {
    "small": {"hidden": 96, "inner": 256, "layers": 3},
    "wide": {"hidden": 256, "inner": 704, "layers": 4},
    "deep": {"hidden": 128, "inner": 352, "layers": 12},
}
BF16 = {"dtype": "bfloat16"}
ONE_RANK: list[tuple[str, dict[str, Any]]] = [
    ("small", {"dtype": "float32"}),
    ("wide", BF16),
    ("wide", {**BF16, "activation_checkpointing": True}),
    ("wide", {**BF16, "logits_chunk": 128}),
    ("wide", {**BF16, "lora": {"rank": 16}}),
    ("deep", {**BF16, "freeze_embeddings": True}),
    ("small", {**BF16, "zero_stage": 3}),
    ("wide", {"dtype": "float32", "zero_stage": 3}),
    ("deep", {**BF16, "zero_stage": 3, "activation_checkpointing": True}),
    ("wide", {**BF16, "zero_stage": 3, "lora": {"rank": 16}}),
    ("wide", {**BF16, "zero_stage": 1}),
    ("wide", {**BF16, "zero_stage": 2}),
]
TWO_RANKS: list[tuple[str, dict[str, Any]]] = [
    ("wide", {**BF16, "zero_stage": 3}),
    ("deep", {"dtype": "float32", "zero_stage": 3}),
    ("wide", {**BF16, "zero_stage": 2}),
    ("wide", {**BF16, "zero_stage": 1}),
]


def run(cases: list[tuple[str, dict[str, Any]]], world_size: int, folder: Path) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = [
        {**SIZES[size], "model": str(folder / size), "training": {"zero_stage": 0, "workers": world_size, **training}}
        for size, training in cases
    ]
    command = [sys.executable, str(Path(__file__).with_name("measure_memory.py")), json.dumps(spec)]
    place = {"WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    ranks = []
    for rank in range(world_size):
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment |= {name: str(value) for name, value in place.items()}
        with (folder / f"{rank}.log").open("w") as log:
            ranks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True))
    told = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), (folder / "0.log").read_text()[-3000:]
    return [json.loads(line) for line in told[0].splitlines() if line.startswith('{"counted"')]


@pytest.mark.parametrize(("cases", "world_size"), [(ONE_RANK, 1), (TWO_RANKS, 2)])
def test_counted_bytes_are_those_alive_within_a_tenth(
    cases: list[tuple[str, dict[str, Any]]], world_size: int, tmp_path: Path
) -> None:
    found = run(cases, world_size, tmp_path)
    assert len(found) == len(cases)
    for (size, training), measured in zip(cases, found, strict=True):
        counted = measured["counted"]
        held = sum(counted[part] for part in ("parameters", "gradients", "optimizer states"))
        assert measured["parameters"] < 5_000_000
        assert held == pytest.approx(measured["held"], rel=0.05), (size, training)
        assert sum(counted.values()) == pytest.approx(measured["most"], rel=0.1), (size, training)
        passing = measured["most"] - measured["held"]
        assert sum(counted.values()) - held == pytest.approx(passing, rel=0.15), (size, training)
