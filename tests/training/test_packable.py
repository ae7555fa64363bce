"""Which models train exactly on packed rows: tiny random ones of every architecture, compared with themselves alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import run_workers, small_training

from agenttuning.errors import ConfigurationError
from agenttuning.storage import Store
from agenttuning.training import packable
from agenttuning.training.device import choose_numerics
from agenttuning.training.engine import Engine, make_engine

COMMON: dict[str, Any] = dict(
    vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
HEAD = {"head_dim": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
          "layer_types": ["linear_attention", "full_attention"], **HEAD}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}

EXACT: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": HEAD, "gemma": HEAD, "gemma3_text": HEAD, "phi": {}, "phi3": {},
    "olmo2": {}, "starcoder2": {}, "granite": {}, "smollm3": {}, "glm4": HEAD, "cohere": {}, "cohere2": {},
    "mixtral": {"num_local_experts": 2}, "qwen3_moe": {"num_experts": 4, **EXPERTS, **HEAD}, "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "gpt2": GPT, "persimmon": {}, "gpt_bigcode": GPT,
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({"n_layer": 2, "n_head": 4}, "AttentionInterface"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2}, "AttentionInterface"),
    "gptj": ({**GPT, "rotary_dim": 4}, "AttentionInterface"),
    "codegen": ({**GPT, "rotary_dim": 4}, "AttentionInterface"),
    "falcon": ({}, "AttentionInterface"),
    "stablelm": ({}, "AttentionInterface"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of conv"),
    "mamba": ({"state_size": 8}, "state|linear_attention"),
    "mamba2": ({"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8}, "state|linear_attention"),
    "qwen3_next": ({**LINEAR, "num_experts": 2, **EXPERTS, "shared_expert_intermediate_size": 16}, "linear_attention"),
    "qwen3_5_text": (LINEAR, "layers of linear_attention"),
    "bamba": ({**MAMBA, "attn_layer_indices": [1]}, "state|linear_attention"),
    "granitemoehybrid": (
        {**MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 64},
        "layers of linear_attention",
    ),
    "recurrent_gemma": (
        {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 128, **HEAD},
        "state",
    ),
    "falcon_h1": ({**MAMBA, "mamba_d_ssm": 64, **HEAD}, "state|hybrid"),
    "rwkv": ({"attention_hidden_size": 32, "context_length": 128}, "state"),
    "gemma2": (HEAD, "cannot compute softcap"),
    "gpt_oss": ({**HEAD, "num_local_experts": 2, "num_experts_per_tok": 1}, "cannot compute s_aux"),
}


def save_random(path: Path, kind: str, settings: dict[str, Any]) -> Path:
    """A random model of two layers whose attention matters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(COMMON | settings))
    config.initializer_range = 0.3
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def engine_of(path: Path) -> Engine:
    training = small_training()
    return make_engine(path, training, choose_numerics(training))


@pytest.mark.parametrize("kind", EXACT)
def test_models_of_attention_alone_train_exactly_on_packed_rows(kind: str, tmp_path: Path) -> None:
    engine = engine_of(save_random(tmp_path, kind, EXACT[kind]))
    assert engine.causal.training
    assert engine.causal.config._attn_implementation == "segments"


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_would_be_trained_wrongly_are_refused(kind: str, tmp_path: Path) -> None:
    settings, reason = REFUSED[kind]
    with pytest.raises(ConfigurationError, match=rf"{reason}.*train (a|another) (decoder|model)"):
        engine_of(save_random(tmp_path, kind, settings))


@pytest.mark.parametrize("kind", [k for k in REFUSED if k not in ("gemma2", "gpt_oss")])
def test_what_is_known_of_architectures_is_also_found_by_trying(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a model that nobody knows yet is refused too."""
    monkeypatch.setattr("agenttuning.training.engine.check_architecture", lambda *_: None)
    with pytest.raises(ConfigurationError, match=r"cannot be (trained|loaded for training)"):
        engine_of(save_random(tmp_path, kind, REFUSED[kind][0]))


def test_every_rank_tries_and_a_run_without_a_leak_is_not_changed_by_it(
    model: Path, store: Store, tmp_path: Path
) -> None:
    training = small_training(steps=1, zero_stage=3)
    assert run_workers(model, store, tmp_path / "good", training, 2) == [0, 0]
    leaking = save_random(tmp_path / "m", "lfm2", REFUSED["lfm2"][0] | {"vocab_size": 199})
    with pytest.raises(AssertionError, match=r"ConfigurationError.*layers of conv"):
        run_workers(leaking, store, tmp_path / "bad", training, 2)


def test_a_row_whose_segments_are_not_told_apart_is_found(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    row = packable._row
    monkeypatch.setattr(packable, "_row", lambda *given: replace(row(*given), parents=[None, 0, 1, None]))
    with pytest.raises(ConfigurationError, match=r"segment 2 of a packed row differ .* allowed are 0\.001 in float32"):
        engine_of(model)
