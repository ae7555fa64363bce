"""Control groups are found in every layout, made per box where that is allowed, and gone with it."""

from pathlib import Path

import pytest

from agenttuning.environments.sandbox import Limits, Sandbox, control_groups, sandbox_problem
from agenttuning.environments.sandbox.control_groups import ControlGroup, Hierarchy, find_hierarchies, hierarchies

PROBLEM = sandbox_problem()


def test_version_1_has_a_hierarchy_per_controller(tmp_path: Path) -> None:
    (tmp_path / "memory" / "job" / "7").mkdir(parents=True)
    (tmp_path / "pids").mkdir()
    own = "8:pids:/gone/in/this/container\n4:memory:/job/7\n2:cpu,cpuacct:/\n0::/\n"
    assert find_hierarchies(own, tmp_path) == [
        Hierarchy(tmp_path / "pids", None, "pids.max"),
        Hierarchy(tmp_path / "memory" / "job" / "7", "memory.limit_in_bytes", None),
        Hierarchy(tmp_path, "memory.max", "pids.max"),
    ]


def test_version_2_has_one(tmp_path: Path) -> None:
    (tmp_path / "user.slice" / "me").mkdir(parents=True)
    assert find_hierarchies("0::/user.slice/me\n", tmp_path) == [
        Hierarchy(tmp_path / "user.slice" / "me", "memory.max", "pids.max")
    ]


def test_limits_are_written_and_processes_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_groups, "hierarchies", lambda: (Hierarchy(tmp_path, "memory.max", "pids.max"),))
    group = ControlGroup("box", 1024, 9)
    group.add(42)
    made = {path.name: path.read_text() for path in (tmp_path / "box").iterdir()}
    assert made == {"memory.max": "1024", "pids.max": "9", "cgroup.procs": "42"}


def test_where_none_can_be_made_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_groups, "hierarchies", lambda: (Hierarchy(tmp_path / "none", "memory.max", None),))
    group = ControlGroup("box", 1024, 9)
    group.add(42)
    group.remove()
    group.remove()


@pytest.mark.skipif(PROBLEM is not None or not hierarchies(), reason="no box or no control group can be made here")
def test_a_box_is_in_its_groups_from_the_start_and_they_go_with_it() -> None:
    with Sandbox(Limits(memory_mb=128, disk_mb=8, processes=20)) as box:
        directories = list(box._group._directories)
        assert directories
        for directory in directories:
            assert len((directory / "cgroup.procs").read_text().split()) >= 3
    assert not [directory for directory in directories if directory.exists()]
