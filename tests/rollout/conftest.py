import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "policies"))

ENTRIES = """[agenttuning.environments]
toy = toy_environments:Toy
toy-process = toy_environments:ToyProcess
toy-strict = toy_environments:ToyStrict
"""


def install_toys(root: Path) -> Path:
    """Write the toy environments' entry points, as a package of their own would have; returns what to put on the path."""
    site = root / "site"
    package = site / "toy_environments-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-environments\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(ENTRIES)
    return site


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Install the toy environments and return a directory for their marks."""
    monkeypatch.syspath_prepend(str(install_toys(tmp_path)))
    importlib.invalidate_caches()
    marks = tmp_path / "marks"
    marks.mkdir()
    return marks
