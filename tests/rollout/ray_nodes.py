"""A real Ray of several nodes on this machine, each a process tree that can be killed whole, and an object store.

Every node has a scratch directory of its own, which dies with it: what a run must keep is reached by URI.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
TOKEN = secrets.token_hex(32)
"""Ray guards a cluster with a token once this machine has one, so both sides are told one."""
ANY_WORKER_PORT = ["--min-worker-port=0", "--max-worker-port=0"]
"""By default workers of all nodes of a machine ask for the same ports."""
QUICK_DEATH = (
    '{"health_check_period_ms": 500, "health_check_timeout_ms": 3000, "health_check_failure_threshold": 4, '
    '"health_check_initial_delay_ms": 2000}'
)


@dataclass
class Node:
    process: subprocess.Popen[bytes]
    scratch: Path

    def pids(self, word: str = "") -> list[int]:
        """Process ids below this node whose command line holds `word`."""
        found = []
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        for child in below:
            try:
                if word in " ".join(child.cmdline()):
                    found.append(child.pid)
            except psutil.Error:
                continue
        return found

    def told(self) -> str:
        """What `ray start` printed."""
        return (self.scratch / "start.log").read_text(errors="replace")

    def started(self) -> bool:
        return self.process.poll() is None and "Ray runtime started" in self.told()

    def kill(self) -> None:
        """SIGKILL to every process of the node, and its disk is gone."""
        doomed = [*self.pids(), self.process.pid]
        for pid in doomed:
            kill(pid)
        self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)


@dataclass
class Nodes:
    address: str
    environment: dict[str, str]
    head: Node
    workers: list[Node] = field(default_factory=list)

    def add(self, cpus: int = 1, *, settled: bool = True, **options: str) -> Node:
        """Start a node, and wait until it is one of the cluster's.

        Nodes that start at the same moment may pick the same free port, of which one dies: it is started again.
        """
        extra = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        command = [f"--address={self.address}", f"--num-cpus={cpus}", *extra]
        node = _start(command, self.environment)
        deadline = time.monotonic() + 90
        while settled and not node.started():
            assert time.monotonic() < deadline, f"a node does not start:\n{node.told()}"
            if node.process.poll() is not None:
                node.kill()
                node = _start(command, self.environment)
            time.sleep(0.2)
        self.workers.append(node)
        return node

    def close(self) -> None:
        for node in [*self.workers, self.head]:
            node.kill()


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 9)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def nodes(environment: dict[str, str], head_cpus: int = 0) -> Iterator[Nodes]:
    """Start a head (without CPUs for actors, as a driver's node has) and yield what adds nodes to it."""
    environment = {
        **os.environ, **environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN,
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    port = free_port()
    options = [*head_options(port), f"--num-cpus={head_cpus}", f"--system-config={QUICK_DEATH}"]
    head = _start(options, environment)
    cluster = Nodes(f"127.0.0.1:{port}", environment, head)
    try:
        wait_until(lambda: listens(port), 60, "the head does not listen")
        yield cluster
    finally:
        cluster.close()


def head_options(port: int) -> list[str]:
    """What lets several clusters start on one machine at once: every port that has a fixed default is a free one."""
    return ["--head", f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]


def wait_until(what, seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)


@contextmanager
def object_store() -> Iterator[tuple[str, dict[str, str]]]:
    """An S3 API on loopback with one bucket: a root URI, and the credentials for it.

    All such servers of one process show the same buckets, so each has a bucket of its own name.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", aws_access_key_id="k", aws_secret_access_key="s",
        region_name="us-east-1",
    )  # fmt: skip
    bucket = f"bucket-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket)
    yield f"s3://{bucket}/runs?scheme=http&endpoint_override={host}:{port}&region=us-east-1", keys
    server.stop()


def _start(options: list[str], environment: dict[str, str]) -> Node:
    scratch = Path(tempfile.mkdtemp(prefix="rn", dir="/tmp"))
    command = [
        str(BIN / "ray"), "start", *options, f"--temp-dir={scratch}", "--object-store-memory=100000000", "--block",
        "--disable-usage-stats", *ANY_WORKER_PORT,
    ]  # fmt: skip
    own = {**environment, "PATH": f"{BIN}:{environment['PATH']}", "TMPDIR": str(scratch), "HOME": str(scratch)}
    log = (scratch / "start.log").open("wb")
    process = subprocess.Popen(command, env=own, cwd=scratch, stdout=log, stderr=log, start_new_session=True)
    return Node(process, scratch)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
