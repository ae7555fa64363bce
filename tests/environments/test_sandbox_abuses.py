"""Escapes and abuses, each one a test: what was tried does not work, and host, neighbour and checker stay as they were.

Each is tried at both levels of a box; what only one of them has is in `test_sandbox_own_root.py`.

`REFUSED` are scripts whose output must be as stated. The tests below them are abuses of time, memory, processes and
of the box's own channels, where what counts is what is left afterwards.
"""

import os
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.operating_system.records import shell_text
from agenttuning.environments.sandbox import Limits, Sandbox, bubblewrap, copying, sandbox_level, sandbox_problem
from agenttuning.environments.sandbox.box import INTERRUPT_TIMEOUT_S
from agenttuning.environments.sandbox.control_groups import bounds_memory
from agenttuning.trajectory import Action, Task

PROBLEM = sandbox_problem()
NO_OWN_ROOT = None if PROBLEM else sandbox_level()[1]
OWN = pytest.mark.skipif(NO_OWN_ROOT is not None, reason=str(NO_OWN_ROOT))
LEVELS = [pytest.param(True, id="own root", marks=OWN), pytest.param(False, id="shared system")]
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
SECRET = "marmalade-4711"
NO_CAPABILITY = "Operation not permitted|ermission denied|must be superuser|not permitted|Read-only"


@pytest.fixture(params=LEVELS)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(Limits(disk_mb=16, memory_mb=256, processes=24), own=request.param) as box:
        yield box


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Sandbox]:
    """Another episode on the same machine, with a secret in a file, a process and shared memory."""
    with Sandbox(Limits(disk_mb=16, memory_mb=256, processes=24)) as other:
        other.run(f"echo {SECRET} > /root/secret; (exec -a {SECRET} sleep 600) & ipcmk -M 64 >/dev/null", 5)
        yield other


@pytest.fixture(scope="module")
def host_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("host") / "canary"
    path.write_text(SECRET)
    path.chmod(0o666)
    path.parent.chmod(0o777)
    yield path
    assert path.read_text() == SECRET
    assert [entry.name for entry in path.parent.iterdir()] == ["canary"]


@pytest.fixture
def quick_interrupt(monkeypatch: pytest.MonkeyPatch) -> float:
    """Wait less for a box that does not let itself be interrupted."""
    monkeypatch.setattr(bubblewrap, "INTERRUPT_TIMEOUT_S", 1.5)
    return 1.5


class Refused(NamedTuple):
    """A script, and a text that its output must hold (`|` parts alternatives)."""

    script: str
    says: str


MANY_PROCESSES = """
for i in $(seq 12); do awk 'BEGIN { s = sprintf("%100000000s", "x"); system("sleep 8") }' & done; wait
"""
UNNAMED_FILES = """
perl -e 'for (1..80) { my $fd = syscall(319, "m", 0); open my $f, ">&=", $fd; syswrite $f, "x" x 17e6; push @f, $f }
sleep 3'
"""

REFUSED = {
    "read a host file": Refused("cat {host}", "No such file"),
    "write a host file": Refused("echo x > {host}", "No such file"),
    "make a host path and look for it": Refused("mkdir -p {folder} && ls -A {folder}; echo [$?]", "[0]"),
    "read the host's home": Refused("ls -A {home}/.ssh /root/.cache", "No such file"),
    "read the host's passwords": Refused("cat /etc/shadow", "No such file"),
    "read the host's accounts": Refused("grep -vc -e '^root:' -e '^nobody:' /etc/passwd", "0"),
    "find the checker": Refused("find / -path /proc -prune -o -name 'grading.py' -print 2>/dev/null; echo end", "end"),
    "reach the host through init's root": Refused("cat /proc/1/root{host}", "No such file"),
    "reach the host through init's directory": Refused("cat /proc/1/cwd{host}", "No such file|ermission denied"),
    "climb over the root": Refused("cat ../../../../../..{host}", "No such file"),
    "read a neighbour's file": Refused("grep -rs --exclude-dir=proc --exclude-dir=usr marmalade /; echo end", "end"),
    "see a neighbour's process": Refused("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[m]armalade'", "0"),
    "see a neighbour's shared memory": Refused("ipcs -m | grep -c '^0x'", "0"),
    "signal a process of the host": Refused("kill -0 {pid}", "No such process"),
    "reach a server of the host": Refused("echo x > /dev/tcp/127.0.0.1/{port}", "refused"),
    "reach the internet": Refused("echo x > /dev/tcp/8.8.8.8/53", "unreachable"),
    "resolve a name": Refused("getent hosts example.org || echo none", "none"),
    "reach a socket without a file": Refused(
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); "
        'connect(S, pack("Sa*", AF_UNIX, "\\0{abstract}")) or print "no: $!"\'',
        "no: ",
    ),
    "open a raw socket": Refused(
        "perl -MSocket -e 'socket(S,AF_INET,SOCK_RAW,1) or print \"no: $!\"'", "no: Operation not permitted"
    ),
    "mount something": Refused("mount -t tmpfs none /mnt; mkdir -p /x; mount -t tmpfs none /x", NO_CAPABILITY),
    "mount the programs writable": Refused("mount -o remount,rw /usr", NO_CAPABILITY),
    "bind over the programs": Refused("mount --bind /root /usr/bin", NO_CAPABILITY),
    "unmount what covers the host": Refused("umount -l /usr/local", NO_CAPABILITY),
    "make namespaces of its own": Refused("unshare -Urm true; unshare -m true", "failed|No space|not permitted"),
    "enter the namespaces of init": Refused("nsenter -t 1 -a true", "ermission denied|not permitted|cannot open"),
    "change the root": Refused("chroot /root /bin/true", NO_CAPABILITY),
    "make a device": Refused("mknod /root/disk b 254 0", NO_CAPABILITY),
    "read the host's memory": Refused(
        "cat /dev/mem /dev/kmem /proc/kcore | head -c 1", "No such file|ermission denied"
    ),
    "read the host's disks": Refused("ls /dev/vd* /dev/sd* /dev/nvme* /dev/loop* /dev/kvm", "cannot access"),
    "read the kernel's log": Refused("dmesg; head -c 1 /dev/kmsg", "not permitted|No such file"),
    "find /sys": Refused("ls /sys", "No such file"),
    "set the core pattern": Refused("echo '|/root/x' > /proc/sys/kernel/core_pattern", NO_CAPABILITY),
    "ask for a reboot": Refused("echo b > /proc/sysrq-trigger", "No such file|ermission denied|Read-only"),
    "set a limit of the kernel": Refused("echo 1 > /proc/sys/vm/drop_caches", NO_CAPABILITY),
    "set the clock": Refused("date -s 2001-01-01 2>&1", "cannot set date"),
    "set the host's name": Refused("hostname evil 2>&1; uname -n", "must be root"),
    "raise its priority": Refused("renice -n -20 $$ 2>&1", "ermission denied|not permitted"),
    "raise its limits": Refused("ulimit -u 100000; ulimit -v unlimited; ulimit -n 100000", "cannot modify limit"),
    "win a capability by a setuid program": Refused(
        "cp /bin/bash /root/b; chmod 4755 /root/b; a=$(grep CapEff /proc/self/status); "
        "/root/b -pc 'grep CapEff /proc/self/status' | grep -vF \"$a\" || echo none",
        "none",
    ),
    "win privileges anew": Refused("grep NoNewPrivs /proc/self/status", "1"),
    "find a terminal to type on": Refused("tty; echo id > /dev/tty", "not a tty"),
    "write into init's memory": Refused("echo x > /proc/1/mem", "ermission denied|error"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_escape_is_refused(name: str, box: Sandbox, neighbour: Sandbox, host_file: Path) -> None:
    abstract = f"agenttuning-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unnamed:
        unnamed.bind(f"\0{abstract}")
        unnamed.listen()
        server.settimeout(0.01)
        unnamed.settimeout(0.01)
        script = REFUSED[name].script
        for key, value in {
            "host": host_file, "folder": host_file.parent, "home": Path.home(), "pid": os.getpid(),
            "port": server.getsockname()[1], "abstract": abstract,
        }.items():  # fmt: skip
            script = script.replace("{" + key + "}", str(value))
        result = box.run(script, 10)
        for listener in (server, unnamed):
            with pytest.raises(TimeoutError):
                listener.accept()
    assert any(part in result.output for part in REFUSED[name].says.split("|")), result
    assert SECRET not in result.output.replace(script, "")
    assert host_file.read_text() == SECRET
    assert neighbour.run("cat /root/secret", 5).output == f"{SECRET}\n"
    assert box.run("echo alive", 5).output == "alive\n"


def test_a_path_made_in_the_box_is_not_made_on_the_host(box: Sandbox, host_file: Path) -> None:
    box.run(f"mkdir -p {host_file.parent}; echo evil > {host_file}", 5)
    assert host_file.read_text() == SECRET


def test_a_crash_leaves_nothing_on_the_host(box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    box.run("ulimit -c unlimited; perl -e 'kill SEGV => $$'; sh -c 'kill -ABRT $$'", 5)
    assert list(tmp_path.iterdir()) == []


def test_a_fork_bomb_ends_with_its_act(box: Sandbox, neighbour: Sandbox) -> None:
    box.run("bomb() { bomb | bomb & }; bomb; wait; sleep 30", 1)
    assert neighbour.run("echo alive", 5).output == "alive\n"
    assert any(box.run("echo $(echo free)", 2).output == "free\n" for _ in range(4))


def test_a_command_that_ignores_signals_is_stopped(box: Sandbox) -> None:
    started = time.monotonic()
    assert box.run("trap '' TERM INT HUP QUIT; while :; do sleep 1; done", 0.5).timed_out
    assert time.monotonic() - started < 4
    assert box.run("echo back", 5).output == "back\n"


def test_a_trap_on_exit_cannot_hold_the_box(box: Sandbox) -> None:
    assert box.run("trap 'sleep 100' EXIT; exit 3", 0.5).timed_out
    assert box.run("echo back", 5).output == "back\n"


@pytest.mark.skipif(not bounds_memory(), reason="no control group can be made here, so memory is bounded per process")
@pytest.mark.parametrize("script", [MANY_PROCESSES, UNNAMED_FILES], ids=["processes", "unnamed files"])
def test_memory_of_the_whole_box_is_bounded(script: str, box: Sandbox) -> None:
    """Each process stays below its own limit; together they ask for far more than the box may have."""
    before = available_mb()
    box.run(script, 4)
    assert before - available_mb() < 800
    while box.alive and box.run("echo alive", 2).output != "alive\n":
        pass  # the kernel may have killed the shell, or the whole box; either is an end


def available_mb() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) // 1024


def test_many_files_end_with_the_act(box: Sandbox) -> None:
    before = available_mb()
    box.run("mkdir /root/many; cd /root/many; perl -e 'for (1..1e7) { open my $f, \">\", $_ or last }'", 1)
    assert before - available_mb() < 800
    assert box.run("echo back", 5).output == "back\n"


def test_a_deep_tree_is_no_trouble(box: Sandbox) -> None:
    box.run("for i in $(seq 500); do mkdir d && cd d || break; done; echo deep > f", 1.5)
    assert box.run("cd /root && echo back", 5).output == "back\n"


def test_a_huge_sparse_file_is_not_read_whole(box: Sandbox) -> None:
    box.run("truncate -s 15M /root/sparse; truncate -s 900G /root/more", 5)
    box.stop()
    assert box.read("/root/sparse")[0] == "too_big"
    assert box.read("/root/more")[0] in ("missing", "too_big", "file")


@pytest.mark.parametrize("script", ["yes", "cat /dev/urandom", "cat /dev/zero", "printf '%*d' 5000000 0"])
def test_endless_output_is_stopped(script: str, box: Sandbox) -> None:
    started = time.monotonic()
    result = box.run(script, 20)
    assert len(result.output) <= box.limits.output_bytes
    assert time.monotonic() - started < 10
    assert box.run("echo back", 5).output == "back\n"


def test_output_between_acts_cannot_flood(box: Sandbox) -> None:
    box.run("(setsid yes &) ; echo started", 5)
    time.sleep(0.3)
    for _ in range(4):
        result = box.run("echo answer", 5)
        assert len(result.output) <= box.limits.output_bytes
    box.stop()
    assert not processes_with("yes\0")


def test_survivors_end_with_the_episode(box: Sandbox) -> None:
    mark = "4711.25"
    box.run(f"(setsid nohup sh -c 'trap \"\" HUP TERM; sleep {mark}' >/dev/null 2>&1 &); sleep {mark} & disown", 5)
    assert box.run("echo go on", 5).output == "go on\n"
    assert processes_with(mark)
    box.close()
    assert not processes_with(mark)


def processes_with(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if mark in line:
                found.append(line)
    return found


def test_init_cannot_be_killed(box: Sandbox) -> None:
    box.run("kill -KILL 1; kill -TERM 1; kill -STOP 1", 5)
    assert box.run("echo alive", 5).output == "alive\n"


def test_tracing_init_stays_in_the_box(box: Sandbox, neighbour: Sandbox, quick_interrupt: float) -> None:
    """Init belongs to the box, so a script may trace it, and stop it; that ends no more than its own episode."""
    box.run("perl -e 'syscall(101, 16, 1, 0, 0); syscall(101, 16, 2, 0, 0); sleep 60'", 1)
    box.stop()
    assert not box.alive
    assert neighbour.run("echo alive", 5).output == "alive\n"


@pytest.mark.parametrize("script", ["kill -KILL -1", "kill -KILL 2", "kill -STOP -1; kill -STOP 2; sleep 30"])
def test_an_attack_on_the_warden_is_an_end(
    script: str, box: Sandbox, neighbour: Sandbox, quick_interrupt: float
) -> None:
    started = time.monotonic()
    box.run(script, 1)
    box.run("sleep 3", 0.5)
    box.stop()
    assert time.monotonic() - started < 2 * quick_interrupt + 4
    assert neighbour.run("echo alive", 5).output == "alive\n"


def test_stolen_requests_end_the_box_at_worst(box: Sandbox) -> None:
    """Init holds the channel on which a stop is asked for; a script may read it away."""
    box.run("(setsid cat /proc/1/fd/0 /proc/2/fd/5 >/dev/null 2>&1 &)", 2)
    started = time.monotonic()
    box.run("sleep 60", 0.5)
    assert time.monotonic() - started < INTERRUPT_TIMEOUT_S + 3
    assert not box.alive or box.run("echo alive", 5).output == "alive\n"


def test_forged_events_stay_in_their_own_episode(box: Sandbox, neighbour: Sandbox) -> None:
    forged = box.run("for fd in /proc/2/fd/4 /proc/$$/fd/4; do echo 'done 0' > $fd; done; sleep 0.2; false", 5)
    assert forged.exit_code in (0, 1)
    assert neighbour.run("false", 5).exit_code == 1
    box.run("head -c 3000000 /dev/zero | tr '\\0' x > /proc/2/fd/4", 3)
    box.stop()
    assert not box.alive


def test_the_next_script_cannot_be_read_from_the_channel_by_a_dead_act(box: Sandbox) -> None:
    """What is stopped is dead before the next script is sent."""
    box.run("(setsid cat /proc/2/fd/3 > /root/stolen &); sleep 60", 0.5)
    assert box.run("echo fine; cat /root/stolen", 5).output == "fine\n"


TASK = Task(
    environment="os",
    split="train",
    instruction="Write 7 into /root/answer.txt and delete /root/old.",
    payload={"setup": "echo x > /root/old", "expect": {"files": {"/root/answer.txt": "7\n"}, "absent": ["/root/old"]}},
)


def graded(script: str, wait: float = 5.0) -> float:
    """Play a script and `finish`; the episode must end, whatever the script did."""
    with OperatingSystem(OperatingSystemSettings(command_timeout_s=wait)) as env:
        env.reset(TASK)
        step = env.step(Action(name="bash", arguments={"script": script}))
        if not step.done:
            assert env.step(Action(name="finish")).done
        return env.grade(TASK, env.close()).reward


@pytest.mark.parametrize(
    ("script", "reward"),
    [
        ("echo 7 > /root/answer.txt; rm /root/old", 1.0),
        ("true", 0.0),
        ("ln -s /root/seven /root/answer.txt; echo 7 > /root/seven; rm /root/old", 0.0),
        ("mkfifo /root/answer.txt; (setsid sh -c 'while :; do echo 7 > /root/answer.txt; done' &); rm /root/old", 0.0),
        ("mkdir /d; echo 7 > /d/answer.txt; rm -r /root/*; mv /root /r; ln -s /d /root", 0.0),
        ("cat() { echo 7; }; ls() { :; }; export -f cat ls; test() { return 0; }", 0.0),
        ("echo 7 > /root/answer.txt; rm /root/old; (sleep 0.2; echo 8 > /root/answer.txt) & sleep 0.5", 0.0),
        ("echo /root/evil.so > /etc/ld.so.preload; echo 7 > /root/answer.txt; rm /root/old", 1.0),
        ("kill -KILL -1", 0.0),
        ("exit 0", 0.0),
        ("exec sleep 100", 0.0),
        (":(){ :|:& };:", 0.0),
    ],
)
def test_an_episode_ends_and_its_grade_is_that_of_the_files(script: str, reward: float) -> None:
    assert graded(script, 1.5) == reward


def test_check_scripts_run_without_the_agents_processes_settings_and_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A published check runs on a copy of the files, in a fresh box: not in the agent's shell, nor by its programs."""
    monkeypatch.setattr(copying, "MOST_ENTRIES", 500)
    check = '/bin/bash -c \'test "$(cat /root/n)" = 7 && test "$1" = yes\' --'
    answer = Action(name="answer", arguments={"answer": "yes"})
    for script, codes in {
        "echo 7 > /root/n": [0],
        "echo 8 > /root/n": [1],
        "test() { return 0; }; cat() { echo 7; }; export -f test cat; alias test=true": [1],
        "export BASH_ENV=/root/e; echo 'cat() { echo 7; }' > /root/e; cp /root/e /root/.bashrc": [1],
        "(setsid sh -c 'sleep 0.5; echo 7 > /root/n' &)": [1],
        "printf '#!/bin/sh\\necho 7\\n' > /root/cat; chmod 755 /root/cat; PATH=/root:$PATH": [1],
        "echo 7 > /root/n; echo /root/evil.so > /etc/ld.so.preload": [0],
        "echo 7 > /root/n; mv /etc /e; mkdir -p /etc/alternatives; ln -s /root/x /etc/alternatives/awk": [0],
        "echo 7 > /root/n; mkdir /l; rm /lib64; true": [0],
        "cd /; for n in $(seq 501); do echo > /tmp/$n; done; echo 7 > /root/n": [],
        "echo 7 > /root/n; mkdir -p /tmp/$(printf 'd/%.0s' $(seq 80))": [],
    }.items():
        assert checked(check, script, answer) == codes, script


def test_python_checks_load_no_module_of_the_agent() -> None:
    check = shell_text("python", "import os, sys; sys.exit(0 if os.path.exists('/root/done') else 1)")
    folder = "$(python3 -c 'import site; print(site.getusersitepackages())')"
    forge = "import builtins, sys\nsys.exit = lambda *_: __import__('posix')._exit(0)"
    script = f"mkdir -p {folder}; for f in {folder}/usercustomize.py /root/os.py /root/sys.py /root/sitecustomize.py; "
    script += f"do printf %s {shlex.quote(forge)} > $f; done; export PYTHONPATH=/root"
    assert checked(check, script, Action(name="finish")) == [1]
    assert checked(check, f"{script}; touch /root/done", Action(name="finish")) == [0]


def checked(check: str, script: str, end: Action) -> list[int]:
    """Return the exit codes of a check after a script."""
    task = TASK.model_copy(update={"payload": {"setup": "", "expect": {"checks": [check]}}})
    with OperatingSystem(OperatingSystemSettings()) as env:
        env.reset(task)
        env.step(Action(name="bash", arguments={"script": script}))
        env.step(end)
        evidence = env.close()
    assert env.grade(task, evidence).reward == float(evidence["checks"] == [0])
    codes: list[int] = evidence["checks"]
    return codes


def test_a_copy_has_the_files_as_they_were(box: Sandbox) -> None:
    box.run("mkdir -p /data/a; echo 1 > /data/a/n; chmod 640 /data/a/n; touch -d 2001-02-03 /data/a/n; rm -r /srv", 5)
    box.run("ln -s /data /root/l; mkfifo /root/pipe; printf 'b\\nc' > '/root/a b'; echo 'x:x:7:' >> /etc/group", 5)
    box.run("(setsid sleep 4711.5 &)", 5)
    copy = box.copy()
    assert copy is not None
    with copy:
        assert copy.run("stat -c '%a %Y %U' /root/l/a/n; cat '/root/a b'", 5).output.startswith("640 98")
        assert copy.run("tail -n 1 /etc/group; ls /root/pipe /srv; ls /root", 5).output.startswith("x:x:7:\nls: ")
        assert copy.run("ps -ef | grep -c '[4]711.5'", 5).output == "0\n"
        assert copy.run("echo more > /root/n && cat /root/n", 5).output == "more\n"
    assert not box.alive
