"""A base model is loaded under ZeRO-3 one weight at a time, and is then the one that transformers loads."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from measure_load import digest
from small_runs import exported_weights, run_workers, small_training
from test_packable import EXACT, save_random

from agenttuning.errors import ConfigurationError
from agenttuning.storage import Store
from agenttuning.training.device import Numerics
from agenttuning.training.engine import load_causal

MIB = 2**20
KINDS = {"llama": {}, "qwen2": {"tie_word_embeddings": True}, "qwen3": {}, "gemma": {}, "gpt2": {}, "mixtral": {}}
"""Mixtral's files are converted, so transformers loads it."""


def load_on_two_ranks(models: list[Path], tmp_path: Path) -> list[dict[str, Any]]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MALLOC_TRIM_THRESHOLD_": "65536"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("measure_load.py")),
             json.dumps({"rank": rank, "meeting": str(tmp_path / "meeting"), "models": [str(m) for m in models]})],
            env=env, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(text.splitlines()[-1]) for text in told]


def test_no_rank_holds_more_than_its_shard_and_a_few_weights(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=1536, num_hidden_layers=48, num_attention_heads=8,
        num_key_value_heads=8, dtype="bfloat16",
    )  # fmt: skip
    large = LlamaForCausalLM(config).to(torch.bfloat16)
    whole = sum(weight.nbytes for weight in large.parameters())
    large.save_pretrained(tmp_path / "large", max_shard_size="50MB")
    del large
    models = []
    for kind, settings in KINDS.items():
        settings = EXACT[kind] | settings
        if kind == "llama":
            settings |= {"dtype": "float32"}
        models.append(save_random(tmp_path / kind, kind, settings))
    ranks = load_on_two_ranks([*models, tmp_path / "large"], tmp_path)
    for rank in ranks:
        rose = rank["rose"]["RssAnon"] + rank["rose"]["RssFile"]
        assert whole > 300 * MIB
        assert rose < whole / 2 + 40 * MIB, f"{rank['rose']}, of {whole} bytes"
    numerics = Numerics("cpu", "bfloat16", "segments")
    wanted = [digest(load_causal(m, small_training(), numerics, False)) for m in models]
    assert ranks[0]["digests"] == ranks[1]["digests"] == wanted


def test_a_model_whose_files_do_not_fit_is_refused(model: Path, store: Store, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    wrong, torn = (shutil.copytree(model, tmp_path / name) for name in ("wrong", "torn"))
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(AssertionError, match=r"mlp\.\w+\.weight is \(\d+, \d+\) in its files and"):
        run_workers(wrong, store, tmp_path / "a", small_training(zero_stage=3))
    with pytest.raises(ConfigurationError, match=r"cannot be loaded for training .*mismatch"):
        load_causal(wrong, small_training(), Numerics("cpu", "float32", "segments"), False)
    weights = load_file(torn / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, torn / "model.safetensors", metadata={"format": "pt"})
    said = r"lack weights that its code needs: model\.layers\.1\.mlp\.up_proj\.weight"
    with pytest.raises(AssertionError, match=said):
        run_workers(torn, store, tmp_path / "b", small_training(zero_stage=3))
    with pytest.raises(ConfigurationError, match=said):
        load_causal(torn, small_training(), Numerics("cpu", "float32", "segments"), False)
    assert not exported_weights(Store(str(tmp_path / "b")))
