import json
import shutil
from pathlib import Path

import pytest

from agenttuning.errors import ConfigurationError
from agenttuning.models import model_fingerprint, resolve_model
from agenttuning.recipe import Model


@pytest.mark.model
def test_the_bundled_model_answers_and_ends_its_turn(tmp_path_factory: pytest.TempPathFactory) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from agenttuning.machine import cache_directory

    cache = cache_directory() / "models"
    path = resolve_model(Model(), cache)
    assert resolve_model(Model(), cache) == path
    tokenizer = AutoTokenizer.from_pretrained(path)
    causal = AutoModelForCausalLM.from_pretrained(path)
    assert causal.dtype == torch.bfloat16
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (causal.generation_config.eos_token_id, tokenizer.eos_token_id) == (end, end)
    asked = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = causal.generate(**ids, max_new_tokens=30, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(out)
    assert out[-1] == end, "generation ends at the end of the turn by itself"


def test_a_directory_is_itself(model: Path, tmp_path: Path) -> None:
    assert resolve_model(Model(path=str(model)), tmp_path) == model


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_missing_directory_names_the_cure(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no directory; give a directory with config"):
        resolve_model(Model(path=path), tmp_path)


def test_an_id_that_cannot_be_had_offline_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match=r"(?s)HF_HUB_OFFLINE is set.*hf download no-one/nothing"):
        resolve_model(Model(path="no-one/nothing"), tmp_path)


@pytest.mark.parametrize(
    ("missing", "named"), [("config.json", "no config.json"), ("model.safetensors", r"no \*.safetensors")]
)
def test_a_directory_that_is_no_model_is_refused(model: Path, tmp_path: Path, missing: str, named: str) -> None:
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / missing).unlink()
    with pytest.raises(ConfigurationError, match=named):
        resolve_model(Model(path=str(tmp_path / "m")), tmp_path)


def test_foreign_code_needs_trust(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m"
    shutil.copytree(model, target)
    config = json.loads((target / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (target / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match="trust_remote_code"):
        resolve_model(Model(path=str(target)), tmp_path)
    assert resolve_model(Model(path=str(target), trust_remote_code=True), tmp_path) == target


def test_a_fingerprint_changes_with_a_weight_and_not_with_a_copy(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    same = model_fingerprint(tmp_path / "m")
    assert same == model_fingerprint(model)
    weights = tmp_path / "m" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(bytes(data))
    assert model_fingerprint(tmp_path / "m") != same
    (tmp_path / "m" / "README.md").write_text("not part of the model")
    weights.write_bytes((model / "model.safetensors").read_bytes())
    assert model_fingerprint(tmp_path / "m") == same
