"""A disk that is full and a clock that jumps, each under a running job."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy_environments import install_toys

HERE = Path(__file__).parent
pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

START = """
import json, sys, time
sys.path[:0] = {path!r}
import ray
from test_job import *
quiet = {{"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}}
ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, **quiet)
marks = Path({marks!r})
def resets():
    return len(list(marks.glob("reset-*")))
"""


def driver(tmp_path, script, before=(), site_lines="", **values):
    """Run a script as a driver with a Ray of its own; returns the one line of JSON that it prints."""
    site = install_toys(tmp_path)
    (site / "sitecustomize.py").write_text(site_lines)
    (tmp_path / "marks").mkdir()
    paths = [str(site), str(HERE), str(HERE.parent / "policies")]
    text = (START + script).format(path=[*sys.path, *paths], marks=str(tmp_path / "marks"), **values)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    command = [*before, sys.executable, "-c", text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


CLOCK = """
import time
true_time = time.time
def told_time():
    try:
        with open({shift!r}) as file:
            return true_time() + float(file.read())
    except (OSError, ValueError):
        return true_time()
time.time = told_time
"""
"""In every Python process, driver, actor or environment, the wall clock is shifted by the seconds in a file."""

JUMPS = """
import os
shift, jumps, seen = Path({shift!r}), [86400.0, -86400.0, 1200.0, -1200.0], []
shift.write_text("5000")
elsewhere = ray.get(ray.remote(num_cpus=0)(lambda: time.time()).remote()) - sys.modules["sitecustomize"].true_time()
def jump(done, total, by_environment):
    seen.append(time.time())
    if done and jumps:
        shift.with_suffix(".new").write_text(str(jumps.pop(0)))
        os.replace(shift.with_suffix(".new"), shift)
tasks = [toy_task(4, i, environment=("toy", "toy-process")[i % 2]) for i in range(60)]
store = Store({uri!r})
with fake_endpoint(solver(0.4)) as fake:
    summary = play_tasks(tasks, job_recipe(marks), endpoint(fake, patience_s=60.0), store, on_progress=jump)
stored = list(read_trajectories(store))
seconds = [t.seconds for t in stored] + [c.seconds for t in stored for c in t.calls]
print(json.dumps({{"summary": summary.as_dict(), "elsewhere": elsewhere, "jumps_left": len(jumps),
    "seen": max(seen) - min(seen),
    "ids": [t.id for t in stored], "resets": resets(), "seconds": [min(seconds), max(seconds)]}}))
"""


def test_the_clock_may_jump_by_a_day_either_way(tmp_path):
    shift = str(tmp_path / "shift")
    told = driver(tmp_path, JUMPS, site_lines=CLOCK.format(shift=shift), shift=shift, uri=str(tmp_path / "run"))
    assert told["elsewhere"] == pytest.approx(5000, abs=60), "actors look at this clock too"
    assert (told["jumps_left"], told["seen"] > 86400) == (0, True), "too quick for all jumps"
    assert (told["summary"]["played"], told["summary"]["unfinished"]) == (60, 0)
    assert told["summary"]["retried"] == {}
    assert (len(told["ids"]), len(set(told["ids"])), told["resets"]) == (60, 60, 60), "nothing was played twice"
    assert 0 <= told["seconds"][0] <= told["seconds"][1] < 60


IN_A_SMALL_DISK = ["unshare", "--user", "--map-root-user", "--mount"]
DISK = """
import subprocess
from agenttuning.errors import StorageError
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", {disk!r}], check=True)
store = Store({disk!r}).child("trajectories")
tasks = [toy_task(3 + i % 4, i) for i in range(200)]
said, stored = [], []
for _ in range(2):
    try:
        play_tasks(tasks, job_recipe(marks), PolicySpec(), store)
    except StorageError as error:
        said.append(str(error))
    stored.append(sorted(stored_ids(store)))
subprocess.run(["mount", "-o", "remount,size=32m", {disk!r}], check=True)
played = resets()
summary = play_tasks(tasks, job_recipe(marks), PolicySpec(), store)
ids = [t.id for t in read_trajectories(store)]
again = resets() - played
print(json.dumps({{"said": said, "stored": stored, "ids": ids, "summary": summary.as_dict(), "again": again}}))
"""


def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = [*IN_A_SMALL_DISK, "mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if shutil.which("unshare") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("a small file system needs user namespaces (`unshare --user --mount`), which this machine refuses")
    told = driver(tmp_path, DISK, before=IN_A_SMALL_DISK, disk=str(disk))
    assert len(told["said"]) == 2
    for said in told["said"]:
        assert str(disk) in said
        assert "No space left on device" in said
        assert "free space there" in said
        assert "continues" in said
    first, second = map(set, told["stored"])
    assert 20 < len(first) < 180
    assert first <= second <= set(told["ids"]), "what was stored stays"
    assert (len(told["ids"]), len(set(told["ids"])), told["summary"]["unfinished"]) == (200, 200, 0)
    assert told["summary"]["skipped"] == len(second)
    assert told["again"] == 200 - len(second), "only what was not stored is played again"
