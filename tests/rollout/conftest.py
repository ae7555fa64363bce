import importlib
import sys
from pathlib import Path

import pytest
from toy_environments import install_toys

sys.path.insert(0, str(Path(__file__).parents[1] / "policies"))


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Install the toy environments and return a directory for their marks."""
    monkeypatch.syspath_prepend(str(install_toys(tmp_path)))
    importlib.invalidate_caches()
    marks = tmp_path / "marks"
    marks.mkdir()
    return marks
