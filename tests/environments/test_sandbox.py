"""The box keeps a shell's state, shows nothing of the host, and stays within every limit."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenttuning.environments.operating_system.state import collect
from agenttuning.environments.sandbox import Limits, Sandbox, bubblewrap, sandbox_level, sandbox_problem, spawning
from agenttuning.environments.sandbox.reading import read_below
from agenttuning.errors import ConfigurationError

PROBLEM = sandbox_problem()
NO_OWN_ROOT = None if PROBLEM else sandbox_level()[1]
OWN = pytest.mark.skipif(NO_OWN_ROOT is not None, reason=str(NO_OWN_ROOT))
LEVELS = [pytest.param(True, id="own root", marks=OWN), pytest.param(False, id="shared system")]
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


@pytest.fixture(params=LEVELS)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(Limits(disk_mb=16, memory_mb=256, processes=24), own=request.param) as box:
        yield box


def processes_marked(mark: str) -> list[str]:
    """Return the host's processes whose command line holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in line:
                found.append(line)
    return found


def test_state_persists_between_commands(box: Sandbox) -> None:
    box.run("cd /tmp; colour=green; double() { echo $(($1 * 2)); }", 5)
    result = box.run("pwd; echo $colour; double 21; false", 5)
    assert result.output == "/tmp\ngreen\n42\n"
    assert result.exit_code == 1


def test_a_pipe_whose_reader_ends_ends_its_writer_without_a_word(box: Sandbox) -> None:
    assert box.run("yes | head -n 1; echo ${PIPESTATUS[0]}", 5).output == "y\n141\n"


def test_output_keeps_the_order_of_both_streams(box: Sandbox) -> None:
    assert box.run("echo one; echo two >&2; echo three", 5).output == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("script", "output", "code"),
    [
        ("nosuchcommand", "bash: nosuchcommand: command not found\n", 127),
        ("/root/x.sh", "bash: /root/x.sh: No such file or directory\n", 127),
        ("printf '\\033[31mred\\033[0m\\r\\n'", "red\n", 0),
        ("cat", "", 0),
        ("read x; echo got $?", "got 1\n", 0),
        ("printf 'a\\0b'", "ab", 0),
    ],
)
def test_what_a_command_prints(box: Sandbox, script: str, output: str, code: int) -> None:
    result = box.run(script, 5)
    assert (result.output, result.exit_code) == (output, code)


def test_a_syntax_error_does_not_end_the_shell(box: Sandbox) -> None:
    result = box.run("x=1; echo 'open", 5)
    assert "unexpected EOF" in result.output
    assert result.exit_code
    assert box.run("echo alive", 5).output == "alive\n"


@pytest.mark.parametrize("script", ["exit 3", "set -e; (exit 3)", "exec bash -c 'exit 3'"])
def test_a_shell_that_ends_is_replaced_and_files_stay(box: Sandbox, script: str) -> None:
    box.run("cd /tmp; echo kept > /root/note", 5)
    result = box.run(script, 5)
    assert result.exited
    assert result.exit_code == 3
    assert box.run("pwd; cat note", 5).output == "/root\nkept\n"


def test_host_files_are_not_there(box: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    for path in (secret, Path(__file__), Path.home() / ".bashrc", Path("/etc/shadow"), Path("/usr/local/bin")):
        result = box.run(f"ls -A {path}", 5)
        assert not result.output or "No such file" in result.output, path
    assert box.run("cat /etc/passwd | wc -l; ls /home /srv /opt", 5).output.startswith("2\n")


def test_a_shared_system_is_read_only_and_without_capabilities() -> None:
    with Sandbox(own=False) as box:
        for path in ("/usr/bin/x", "/usr/bin/wc", "/usr/sbin/find", "/bin/find", "/usr/local/x", "/dev/x"):
            assert "Read-only file system" in box.run(f"echo x > {path}", 5).output, path
        assert box.run("grep CapEff /proc/self/status", 5).output.split()[-1].strip("0") == ""
        assert box.run("su nobody -c true; touch f; chown nobody f", 5).exit_code != 0
        assert box.isolation.startswith("shared system")


def test_what_no_box_may_do(box: Sandbox) -> None:
    assert "Read-only file system" in box.run("touch /dev/x", 5).output
    assert box.run("mount -t tmpfs none /mnt", 5).exit_code != 0
    assert box.run("unshare -Ur true", 5).exit_code != 0
    assert box.run("mknod /root/disk b 8 0", 5).exit_code != 0
    assert "Debian" in box.run("cat /etc/os-release", 5).output or not Path("/etc/debian_version").exists()


def test_the_network_is_unreachable(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "refused" in box.run(f"echo x > /dev/tcp/127.0.0.1/{port}", 5).output
    assert "unreachable" in box.run("echo x > /dev/tcp/8.8.8.8/53", 5).output


def test_a_host_root_does_not_own_the_box(box: Sandbox) -> None:
    assert box.run("id -u", 5).output == "0\n"
    assert Path(f"/proc/self/fd/{box.root_fd}").stat().st_uid not in ({0} if os.geteuid() == 0 else set())


def test_a_fork_bomb_is_bounded_and_cleared(box: Sandbox) -> None:
    result = box.run("bomb() { bomb | bomb & }; bomb; wait; sleep 30", 1)
    assert result.exit_code != 0
    answers = [box.run("echo $(echo free)", 2) for _ in range(4)]  # what the bomb left may refuse the first
    assert answers[-1].output == "free\n"


def test_many_processes_are_refused(box: Sandbox) -> None:
    box.run("(for i in $(seq 60); do sleep 0.5 & done) 2>/dev/null; ls /proc | grep -c '^[0-9]' > /root/n", 3)
    box.stop()
    assert int(read_below(box.root_fd, "/root/n")[1] or 0) <= 24 + 1  # and bubblewrap itself


def test_memory_is_bounded(box: Sandbox) -> None:
    result = box.run("""awk 'BEGIN { s = "x"; while (1) s = s s }'""", 10)
    assert result.exit_code not in (0, None)
    assert box.run("echo alive", 5).output == "alive\n"


def test_disk_is_bounded(box: Sandbox) -> None:
    result = box.run("dd if=/dev/zero of=/root/big bs=1M count=64", 10)
    assert "No space left on device" in result.output
    assert int(box.run("stat -c %s /root/big", 5).output) <= 16 * 2**20
    assert "No space left" in box.run("dd if=/dev/zero of=/dev/shm/big bs=1M count=64", 10).output


def test_endless_output_is_stopped(box: Sandbox) -> None:
    result = box.run("yes", 30)
    assert result.truncated
    assert not result.timed_out
    assert len(result.output) == box.limits.output_bytes
    assert box.run("echo alive", 5).output == "alive\n"


def test_an_endless_command_is_stopped_and_its_children_too(box: Sandbox) -> None:
    started = time.monotonic()
    result = box.run("echo before; sleep 4242 & sleep 4243", 0.5)
    assert result.timed_out
    assert result.exit_code is None
    assert result.output == "before\n"
    assert time.monotonic() - started < 3
    assert box.run("echo back", 5).output == "back\n"
    assert not processes_marked("sleep 424")


def test_a_cleared_box_loses_no_byte_of_the_next_script() -> None:
    """A dying shell once took the first byte of it, one time in forty."""
    with Sandbox() as box:
        for number in range(80):
            box.clear()
            assert box.run(f"echo {number}", 5).output == f"{number}\n"


def test_a_script_that_is_too_long_is_refused(box: Sandbox) -> None:
    assert "limit" in box.run("#" * 70_000, 5).output
    assert box.run("echo " + "x" * 50_000, 5).output == "x" * 50_000 + "\n"


def test_a_box_that_kills_itself_is_dead_and_its_files_can_be_read(box: Sandbox) -> None:
    box.run("echo last > /root/words; kill -KILL -1", 5)
    deadline = time.monotonic() + 5
    while box.alive and time.monotonic() < deadline:
        box.run("sleep 0.1", 2)
    assert not box.alive
    assert box.run("echo more", 5).exit_code is None
    assert read_below(box.root_fd, "/root/words") == ("file", "last\n")


def test_stopping_leaves_no_process() -> None:
    with Sandbox() as box:
        box.run("(setsid nohup sleep 4299 >/dev/null 2>&1 &); sleep 4298 & disown; sleep 0.2", 5)
        assert len(processes_marked("sleep 429")) >= 2
    assert not processes_marked("sleep 429")


def test_closing_frees_every_descriptor() -> None:
    Sandbox().close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        box = Sandbox()
        box.run("true", 5)
        box.close()
        box.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_box_outlives_the_thread_that_made_it() -> None:
    made: list[Sandbox] = []
    thread = threading.Thread(target=lambda: made.append(Sandbox()))
    thread.start()
    thread.join()
    time.sleep(0.1)
    with made[0] as box:
        assert box.run("echo alive", 5).output == "alive\n"


def test_links_are_reported_and_never_followed(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host secret")
    box.run(
        f"ln -s {tmp_path}/secret /root/file; ln -s {tmp_path} /root/directory; ln -s / /root/top;"
        "mkfifo /root/pipe; mkdir /root/real; dd if=/dev/zero of=/root/huge bs=1M count=1; echo ok > /root/real/note",
        5,
    )
    box.stop()
    names = ["file", "directory/secret", "top/etc/passwd", "pipe", "real", "huge", "real/note", "none/such"]
    found = collect(box, [f"/root/{name}" for name in names])
    kinds = [found[f"/root/{name}"]["kind"] for name in names]
    assert kinds == ["link", "missing", "missing", "other", "directory", "too_big", "file", "missing"]
    assert found["/root/real/note"]["text"] == "ok\n"
    assert not any("secret" in state["text"] for state in found.values())


@pytest.mark.parametrize("path", ["/root/../etc/passwd", "/root//x", "/root/./x", ""])
def test_paths_that_are_not_normal_are_refused(box: Sandbox, path: str) -> None:
    with pytest.raises(ValueError, match="normal path"):
        read_below(box.root_fd, path)


def test_a_missing_bubblewrap_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    spawning.bwrap.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match="apt-get install bubblewrap"):
            Sandbox()
        assert "apt-get install bubblewrap" in str(sandbox_problem())
    finally:
        spawning.bwrap.cache_clear()


def test_refused_namespaces_are_named_with_their_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(spawning, "bwrap", lambda: str(fake))
    monkeypatch.setattr(spawning, "owner", lambda: None)
    monkeypatch.setitem(bubblewrap._refused, None, "for the test")
    assert "user.max_user_namespaces" in str(sandbox_problem())
