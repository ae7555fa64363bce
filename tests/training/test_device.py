import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from agenttuning import machine
from agenttuning.errors import ConfigurationError
from agenttuning.machine import allocator
from agenttuning.recipe import Training
from agenttuning.training import device, varlen_attention
from agenttuning.training.device import choose_numerics


def module_with(*functions: str) -> ModuleType:
    found = ModuleType("made-here")
    for function in functions:
        setattr(found, function, lambda: None)
    return found


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that says it has an Ampere GPU and flash-attention 4 and 2."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(device, "installed", lambda: ["flash_attention_4", "flash_attention_2", "varlen"])
    return monkeypatch


def attention(**settings: Any) -> str:
    return choose_numerics(Training(use_gpu=True, **settings)).attention


def test_a_kernel_is_there_where_its_function_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel of flash-attention 2 holds a package `cute` without what that needs."""
    monkeypatch.setitem(sys.modules, "flash_attn", module_with("flash_attn_varlen_func"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", module_with())
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    assert varlen_attention.installed() == ["flash_attention_2", "varlen"]
    monkeypatch.setitem(sys.modules, "flash_attn.cute", module_with("flash_attn_varlen_func"))
    assert varlen_attention.installed()[0] == "flash_attention_4"


def test_a_c_extension_of_another_pytorch_is_no_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "flash_attn_interface.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn_interface", raising=False)
    assert "flash_attention_3" not in varlen_attention.installed()


def test_a_cpu_looks_for_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "installed", lambda: pytest.fail("it looked"))
    assert choose_numerics(Training()).attention == "segments"


def test_flash_attention_4_is_chosen_from_hopper_on(gpu: pytest.MonkeyPatch) -> None:
    assert attention() == "flash_attention_2"
    gpu.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert attention() == "flash_attention_4"
    assert attention(attention="segments") == "segments"
    assert attention(attention="varlen") == "varlen"


def test_flash_attention_3_is_for_hopper_alone(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(device, "installed", lambda: ["flash_attention_3", "flash_attention_2"])
    chosen = {}
    for capability in ((8, 0), (9, 0), (10, 0), (12, 0)):
        gpu.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        chosen[capability[0]] = attention()[-1]
    assert chosen == {8: "2", 9: "3", 10: "2", 12: "2"}
    with pytest.raises(ConfigurationError, match=r"attention_3 is not written .*capability 12\.0.*attention=auto"):
        attention(attention="flash_attention_3")


def test_a_worker_says_what_it_runs_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "loaded_allocator", lambda: "libjemalloc.so.2")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    threads = f"threads {torch.get_num_threads()}: OMP_WAIT_POLICY active"
    assert device.process_notes(use_gpu=False) == ("allocator libjemalloc.so.2", threads)
    assert device.process_notes(use_gpu=True) == (threads,)
    monkeypatch.setattr(device, "loaded_allocator", lambda: None)
    monkeypatch.setenv("LD_PRELOAD", "/lib/libtcmalloc.so.4")
    said = device.process_notes(use_gpu=False)[0]
    assert said == "allocator malloc, since LD_PRELOAD=/lib/libtcmalloc.so.4 is not on this node"


def test_the_allocator_that_is_loaded_is_found() -> None:
    library = allocator()
    if library is None:
        pytest.skip("no allocator to preload on this machine")
    command = [sys.executable, "-c", "from agenttuning.machine import loaded_allocator as f; print(f())"]
    told = subprocess.run(
        command, env={**os.environ, "LD_PRELOAD": library}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split(".so")[0] == Path(library).name.split(".so")[0]


def test_other_allocators_are_found_where_the_best_one_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "LIBRARIES", (str(tmp_path / "no"), str(tmp_path)))
    assert allocator() is None
    for name in ("libjemalloc.so.2", "libtcmalloc.so.4", "libtcmalloc_minimal.so.4"):
        (tmp_path / name).touch()
        assert allocator() == str(tmp_path / name)


def test_float32_gets_no_kernel_of_16_bits(gpu: pytest.MonkeyPatch) -> None:
    assert attention(dtype="float32") == "segments"
    with pytest.raises(ConfigurationError, match=r"attention_2 computes in 16 bits.* float32; set .*=segments or"):
        attention(dtype="float32", attention="flash_attention_2")
    gpu.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ConfigurationError, match="16 bits"):
        attention(attention="varlen")
