"""A room imports only from floors below it, and never from a neighbour on its own floor."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agenttuning"
FLOORS = [
    {"trajectory", "errors", "recipe"},
    {"storage", "tracking", "progress", "machine", "reading"},
    {"environments", "policies", "conversations", "rendering", "models"},
    {"instructions", "rollout", "curation", "training"},
    {"evaluation", "report"},
    {"session", "servers", "stages", "pipeline"},
    {"cli", "show", "doctor"},
]
NOUNS = FLOORS[0]
SHELL = FLOORS[-2] | FLOORS[-1]


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "agenttuning" else [f"agenttuning.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        rooms |= {n.split(".")[1] for n in names if n.startswith("agenttuning.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for other in imported_rooms(path) - {room}:
        if room in NOUNS and other in NOUNS:
            continue
        if room in SHELL and other in SHELL:
            assert floor_of(other) <= floor_of(room), f"{room} imports {other}"
            continue
        assert floor_of(other) < floor_of(room), f"{room} imports {other}"


def test_files_stay_small() -> None:
    sizes = {p: len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert {str(p): n for p, n in sizes.items() if n > 500} == {}


def test_training_and_environments_stand_alone() -> None:
    for path in (PACKAGE / "training").rglob("*.py"):
        assert "environments" not in imported_rooms(path), path
