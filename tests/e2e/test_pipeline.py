"""Whole small pipelines: from the command line on a path, and as a submitted job on an S3 API on loopback."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttuning.storage import Store
from agenttuning.storage.segments import read_trajectories

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.serve, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[2]


def agenttuning(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agenttuning.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=580)


def check_run(store: Store) -> dict[str, Any]:
    summary: dict[str, Any] = store.read_json("summary.json")
    assert summary["trajectories"]["collected"] == 10
    assert summary["trajectories"]["kept"] >= 9
    for model in ("base", "tuned"):
        assert summary["held_in"][model]["episodes"] == 4
        assert 0 <= summary["held_in"][model]["low"] <= summary["held_in"][model]["high"] <= 1
    assert summary["general"]["base_loss"] > 0
    assert summary["peak_memory_bytes"] > 0
    assert {"generate", "train"} <= set(summary["seconds"])
    assert b"<html" in store.read("report.html")[:2000].lower()
    assert any(n.endswith(".safetensors") for n in store.list(prefix="model/"))
    return summary


def test_interrupted_generation_continues(small_recipe: Any, tmp_path: Path) -> None:
    recipe = str(
        small_recipe(str(tmp_path / "runs"), rollout={"actors": [1, 1], "actor_cpus": 0.25, "commit_seconds": 0.1})
    )
    store = Store(str(tmp_path / "runs/small")).child("trajectories")
    command = [sys.executable, "-m", "agenttuning.cli", "generate", recipe, "environments.db.train_tasks=400"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not store.list(prefix="segments/") and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr
    before = {t.id for t in read_trajectories(store)}
    assert before

    done = agenttuning("generate", recipe, "environments.db.train_tasks=400")
    assert done.returncode == 0, done.stderr
    after = [t.id for t in read_trajectories(store)]
    assert len(after) == 404 == len(set(after))
    assert before <= set(after)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 API on loopback with one bucket; yields a run root."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield f"s3://bucket/runs?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    server.stop()


@pytest.fixture
def submit(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A local `ray start --head` that knows the object store; yields a function that submits a script to it."""
    monkeypatch.setenv("AGENTTUNING_CACHE", str(tmp_path / "cache"))
    bin_dir = Path(sys.executable).parent
    with socket.socket() as free, socket.socket() as other, socket.socket() as third:
        for one in (free, other, third):
            one.bind(("127.0.0.1", 0))
        port, client_port, agent_port = (one.getsockname()[1] for one in (free, other, third))
    environment = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}"}
    # Ray guards a cluster with a token once this machine has one; both sides must be told alike.
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = [
        str(bin_dir / "ray"), "start", "--head", "--port=0", "--num-cpus=2", f"--dashboard-port={port}",
        f"--ray-client-server-port={client_port}", f"--dashboard-agent-listen-port={agent_port}",
        "--min-worker-port=0", "--max-worker-port=0",
        "--include-dashboard=true", "--object-store-memory=300000000", "--block",
    ]  # fmt: skip
    cluster = subprocess.Popen(head, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(script: str, *arguments: str) -> str:
        command = [
            str(bin_dir / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{port}",
            "--working-dir", str(REPOSITORY), "--", "python", f"ray_jobs/{script}", *arguments,
        ]  # fmt: skip
        output = ""
        for _ in range(30):
            submitted = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)
            output = submitted.stdout + submitted.stderr
            if submitted.returncode == 0 or not ("Failed to connect" in output or "try again later" in output):
                break
            time.sleep(1)
        assert submitted.returncode == 0, output
        return output

    yield run
    cluster.send_signal(signal.SIGTERM)
    cluster.communicate(timeout=60)


def test_the_whole_pipeline_as_a_submitted_job_on_an_object_store(
    small_recipe: Any, s3: str, submit: Any, tmp_path: Path
) -> None:
    """The submit line of the README; then the same run from the command line, where nothing is left to do."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = str(small_recipe(s3))
    store = Store(s3).child("small")
    output = submit("pipeline.py", "--recipe", recipe)
    check_run(store)
    assert "report.html" in output
    store.download("model", tmp_path / "model")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() > 0
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template

    again = agenttuning("run", recipe)
    assert again.returncode == 0, again.stderr
    for stage in ("generate", "curate", "mix", "evaluate base", "train", "export", "evaluate tuned"):
        assert f"{stage}: all is done" in again.stdout

    refused = agenttuning("train", recipe, "training.learning_rate=1e-3")
    assert refused.returncode == 2
    assert "training.learning_rate: 0.0001 then, 0.001 now" in refused.stderr

    listed = agenttuning("show", recipe)
    assert "reward" in listed.stdout
    episode = listed.stdout.split()[0]
    assert "--- assistant trained" in agenttuning("show", recipe, "--id", episode).stdout
    item = agenttuning("show", recipe, "--what", "agent").stdout.split()[0]
    shown = agenttuning("show", recipe, "--what", "agent", "--id", item, FORCE_COLOR="1").stdout
    assert "\x1b[1;32m" in shown
