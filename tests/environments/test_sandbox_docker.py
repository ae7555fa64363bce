"""The Docker box keeps the same promises as the bubblewrap one, where a daemon is there."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.sandbox import DockerBox, Limits, docker_problem
from agenttuning.environments.sandbox.docker import changed_paths
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Action

IMAGE = os.environ.get("AGENTTUNING_TEST_IMAGE", "debian:bookworm-slim")
PROBLEM = docker_problem(IMAGE) if shutil.which("docker") else "docker is not installed"
needs_docker = pytest.mark.skipif(PROBLEM is not None, reason=f"no Docker container can run here: {PROBLEM}")


@pytest.fixture(scope="module")
def box() -> Iterator[DockerBox]:
    with DockerBox(Limits(memory_mb=256, processes=32, disk_mb=16), IMAGE) as box:
        yield box


@needs_docker
def test_state_persists_and_a_shell_that_ends_is_replaced(box: DockerBox) -> None:
    box.run("cd /tmp; colour=green", 5)
    result = box.run("pwd; echo $colour; echo low >&2; false", 5)
    assert (result.output, result.exit_code) == ("/tmp\ngreen\nlow\n", 1)
    assert box.run("exit 3", 5).exited
    assert box.run("pwd; nosuchcommand", 5).output == "/root\nbash: nosuchcommand: command not found\n"


@needs_docker
@pytest.mark.parametrize(
    ("script", "timeout_s"),
    [("sleep 60", 0.5), ("yes", 20.0), ("bomb() { bomb | bomb & }; bomb; wait; sleep 30", 1.0)],
)
def test_an_abuse_ends_with_its_act_and_files_stay(box: DockerBox, script: str, timeout_s: float) -> None:
    box.run("echo kept > /root/kept", 5)
    box.run(script, timeout_s)
    assert box.run("cat /root/kept", 5).output == "kept\n"


@needs_docker
def test_a_box_that_kills_its_processes_keeps_its_files() -> None:
    with DockerBox(Limits(), IMAGE) as box:
        box.run("echo kept > /root/kept", 5)
        box.run("kill -9 -1", 2)
        result = box.run("echo alive", 2)
        assert box.alive == (result.exit_code == 0)
        box.stop()
        assert box.read("/root/kept") == ("file", "kept\n")


@needs_docker
def test_the_network_and_the_host_are_out_of_reach(box: DockerBox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    assert "unreachable" in box.run("echo x > /dev/tcp/8.8.8.8/53", 5).output
    assert "No such file" in box.run(f"cat {tmp_path}/secret", 5).output
    assert box.run("mount -t tmpfs none /mnt", 5).exit_code != 0


@needs_docker
def test_files_are_read_from_outside_and_links_are_not_followed() -> None:
    with DockerBox(Limits(), IMAGE) as box:
        box.run(
            "echo hi > /root/note; ln -s /etc/passwd /root/link; mkdir /root/d; ln -s /etc /root/etc; mkfifo /root/p", 5
        )
        box.stop()
        paths = ["/root/note", "/root/link", "/root/d", "/root/etc/passwd", "/root/none", "/root/p"]
        kinds = [box.read(path)[0] for path in paths]
        assert kinds == ["file", "link", "directory", "missing", "missing", "other"]
        assert box.read("/root/note")[1] == "hi\n"


@needs_docker
def test_no_output_is_late(box: DockerBox) -> None:
    for number in range(40):
        result = box.run(f"echo {number}", 5)
        assert result.output == f"{number}\n", result
    assert len(box.run("head -c 100000 /dev/zero | tr '\\0' x", 5).output) == box.limits.output_bytes
    assert box.run("exec >/root/out; echo hidden", 5).output == ""
    box.run("exit", 5)
    assert box.run("cat /root/out", 5).output == "hidden\n"


@needs_docker
def test_a_copy_has_the_files_and_the_programs_of_the_image() -> None:
    with DockerBox(Limits(), IMAGE) as box:
        box.run(
            "mkdir -p /data/a /opt/b; echo 1 > /data/a/n; echo 2 > '/root/a b'; chmod 700 /data/a/n; rm /etc/motd; "
            "ln -s /data /root/l; echo me > /etc/issue; echo evil > /usr/bin/wc; echo /x.so > /etc/ld.so.preload", 5
        )  # fmt: skip
        copy = box.copy()
        assert copy is not None
        with copy:
            told = copy.run("cat /root/l/a/n '/root/a b' /etc/issue; ls -l /data/a/n | cut -c1-10; ls -d /opt/b", 5)
            assert told.output == "1\n2\nme\n-rwx------\n/opt/b\n"
            assert copy.run("echo one two | wc -w; ls /etc/motd /etc/ld.so.preload", 5).output.startswith("2\nls: ")


def test_what_differs_from_an_image_is_told_without_its_programs() -> None:
    listing = (
        "C /root\nA /root/d\nA /root/d/x\nA /root/d y\nC /usr\nC /usr/bin/wc\nC /etc\nA /etc/ld.so.preload\nD /srv"
    )
    assert changed_paths(listing) == [
        ("C", "/etc"),
        ("C", "/root"),
        ("A", "/root/d"),
        ("A", "/root/d y"),
        ("D", "/srv"),
    ]


@needs_docker
def test_the_environment_plays_in_containers() -> None:
    settings = OperatingSystemSettings(sandbox="docker", docker_image=IMAGE)
    with OperatingSystem(settings) as env:
        for task in env.tasks("train", 2, 0):
            env.reset(task)
            assert "uid=0" in env.step(Action(name="bash", arguments={"script": "id"})).observation
            env.step(Action(name="finish"))
            assert env.grade(task, env.close()).reward == 0.0


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_a_missing_daemon_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ConfigurationError, match="start a Docker daemon"):
        DockerBox()


def test_a_missing_client_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="`docker` is not on the PATH"):
        DockerBox()
    assert "sandbox=bubblewrap" in str(docker_problem())
