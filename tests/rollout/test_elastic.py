"""Nodes that come, go and die during a rollout, on a real Ray of several nodes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import yaml
from ray_nodes import ANY_WORKER_PORT, BIN, TOKEN, free_port, head_options, kill, listens, nodes, wait_until
from toy_environments import HURRY, install_toys

from agenttuning.storage import Store
from agenttuning.storage.segments import read_trajectories, stored_ids

HERE = Path(__file__).parent
TASKS = 400
"""More than one actor plays while a loaded machine starts a node; they hurry once it is there."""
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """What nodes and this process need to know of the toys."""
    site = install_toys(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    (tmp_path / "marks").mkdir()
    return {"PYTHONPATH": os.pathsep.join([str(site), str(HERE), os.environ.get("PYTHONPATH", "")])}


DRIVER = """
import json, sys, threading, time
from pathlib import Path
sys.path[:0] = {path!r}
import ray
from toy_environments import HURRY, toy_task
from agenttuning.recipe import EnvironmentSpec, PolicySpec, Recipe, Rollout
from agenttuning.rollout.job import play_tasks
from agenttuning.storage import Store
ray.init(address={address!r}, log_to_driver=False, logging_level="ERROR")
alive = lambda: sum(node["Alive"] for node in ray.nodes())
sizes, over = [alive()], threading.Event()
def watch():
    while not over.wait(0.5):
        sizes.append(alive())
        if sizes[-1] == {enough!r}:
            Path({settings!r}["marks"], HURRY).touch()
threading.Thread(target=watch, daemon=True).start()
tasks = [toy_task(3 + i % 5, i) for i in range({tasks!r})]
recipe = Recipe(environments={{"toy": EnvironmentSpec(settings={settings!r})}}, rollout=Rollout(**{rollout!r}))
summary = play_tasks(tasks, recipe, PolicySpec(), Store({uri!r}))
over.set()
deadline = time.monotonic() + {shrink_s!r}
while alive() > 1 and time.monotonic() < deadline:
    time.sleep(0.5)
print(json.dumps({{"summary": summary.as_dict(), "first": sizes[0], "most": max(sizes), "last": alive()}}))
"""


def drive(tmp_path, address, environment, tasks, pause_s, shrink_s=0.0, enough=None, **rollout):
    """Play toy tasks from a driver of its own; returns its process, whose one line of JSON says how it went.

    From `enough` nodes on, its episodes hurry.
    """
    limits = {"actors": (1, 2), "actor_cpus": 1, "episodes_in_flight": 8, "commit_seconds": 0.3, **rollout}
    script = DRIVER.format(
        path=[*sys.path, str(HERE)], address=address, tasks=tasks, rollout=limits, shrink_s=shrink_s, enough=enough,
        settings={"marks": str(tmp_path / "marks"), "pause_s": pause_s}, uri=str(tmp_path / "trajectories"),
    )  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)


def told_by(driver):
    out, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


def players(tmp_path):
    """Process ids that reset an environment so far."""
    return {int(p.name.split("-")[1]) for p in (tmp_path / "marks").glob("reset-*")}


def test_nodes_come_and_die_where_label_and_resource_say_and_nothing_is_lost(tmp_path, world):
    store = Store(str(tmp_path / "trajectories"))
    spot = {"labels": "market-type=spot", "resources": json.dumps({"rollout": 1})}
    with nodes(world, head_cpus=1) as cluster:
        others = [cluster.head, cluster.add(labels="market-type=on-demand", resources=json.dumps({"rollout": 1}))]
        first = cluster.add(**spot)
        chosen = {"labels": {"market-type": "spot"}, "resources": {"rollout": 1}}
        driver = drive(tmp_path, cluster.address, cluster.environment, tasks=TASKS, pause_s=0.5, **chosen)
        wait_until(lambda: len(stored_ids(store)) >= 8, 120, "nothing is stored")
        second = cluster.add(**spot)
        wait_until(lambda: players(tmp_path) & set(second.pids()), 90, "the new node takes no work")
        boards = [bool(node.pids("ray::Board")) for node in [*others, first, second]]
        strays = {pid for node in others for pid in node.pids()} & players(tmp_path)
        first.kill()
        cluster.workers.remove(first)
        killed = len(stored_ids(store))
        (tmp_path / "marks" / HURRY).touch()
        told = told_by(driver)
    assert (boards, strays) == ([True, False, False, False], set())
    assert killed < TASKS - 16, "the node died too late to matter"
    assert (told["summary"]["played"], told["summary"]["unfinished"]) == (TASKS, 0)
    assert len({t.id for t in read_trajectories(store)}) == TASKS


@pytest.fixture
def autoscaled(world):
    """A head without CPUs whose autoscaler starts up to two nodes for the resource `rollout`."""
    scratch, port = Path(tempfile.mkdtemp(prefix="rn", dir="/tmp")), free_port()
    config = {
        "cluster_name": "fake", "max_workers": 2, "idle_timeout_minutes": 0.1, "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}", "use_node_id_as_ip": True,
            "disable_node_updaters": True, "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "spot": {"resources": {"CPU": 1, "rollout": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default", "auth": {}, "docker": {}, "setup_commands": [],
        "head_setup_commands": [], "worker_setup_commands": [], "initialization_commands": [], "file_mounts": {},
        "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
        "head_start_ray_commands": [], "worker_start_ray_commands": [],
    }  # fmt: skip
    (scratch / "fake.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ, **world, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1", "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    command = [
        str(BIN / "ray"), "start", *head_options(port), *ANY_WORKER_PORT, "--num-cpus=0",
        f"--autoscaling-config={scratch / 'fake.yaml'}", f"--temp-dir={scratch}", "--object-store-memory=100000000",
        "--block", "--disable-usage-stats",
    ]  # fmt: skip
    with (scratch / "start.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, cwd=scratch, stdout=log, stderr=log, start_new_session=True)
    wait_until(lambda: listens(port), 60, "the head does not listen")
    yield f"127.0.0.1:{port}", environment
    for child in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
        kill(child.pid)
    head.wait()
    for process in psutil.process_iter(["cmdline"]):
        if str(scratch) in " ".join(process.info["cmdline"] or ()):
            kill(process.pid)
    shutil.rmtree(scratch, ignore_errors=True)


def test_the_autoscaler_grows_the_cluster_from_one_node_and_shrinks_it_again(tmp_path, autoscaled):
    address, environment = autoscaled
    driver = drive(
        tmp_path, address, environment, TASKS, pause_s=0.4, shrink_s=90.0, enough=3, resources={"rollout": 1}
    )  # fmt: skip
    told = told_by(driver)
    assert (told["summary"]["played"], told["summary"]["unfinished"]) == (TASKS, 0)
    assert (told["first"], told["most"], told["last"]) == (1, 3, 1)
