"""A box with a root of its own: all of it can be written, users exist, and nothing of it reaches the host."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenttuning import doctor
from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.sandbox import (
    Limits,
    Sandbox,
    bubblewrap,
    control_groups,
    launching,
    sandbox_level,
    sandbox_problem,
)
from agenttuning.environments.sandbox.reading import read_below
from agenttuning.environments.sandbox.view import CAPABILITIES
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Action, Task

NO_OWN_ROOT = sandbox_problem() or sandbox_level()[1]
pytestmark = pytest.mark.skipif(NO_OWN_ROOT is not None, reason=str(NO_OWN_ROOT))
BITS = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7}
BITS["net_bind_service"] = 10
"""Numbers of capabilities in `linux/capability.h`."""


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(Limits(disk_mb=16, memory_mb=256, processes=24), own=True) as box:
        yield box


def test_all_of_the_system_can_be_written_and_the_host_stays_as_it_was(box: Sandbox) -> None:
    host = Path("/usr/bin/wc").read_bytes()
    mark = f"agenttuning-{os.getpid()}"
    script = "set -e; for d in /usr/bin /usr/lib /usr/share /usr/local/bin /etc /var/lib/x /opt /srv; do mkdir -p $d; "
    script += f"echo '#!/bin/sh' > $d/{mark}; done; echo evil > /usr/bin/wc; rm /usr/bin/sort; mv /usr/bin/cut /srv"
    script = f"bash -c {shlex.quote(script)}; chmod 755 /usr/local/bin/{mark}; {mark}; echo $?"
    assert box.run(script, 5).output == "0\n"
    assert "not found" in box.run("sort /dev/null", 5).output
    assert Path("/usr/bin/wc").read_bytes() == host
    assert Path("/usr/bin/sort").exists()
    assert Path("/usr/bin/cut").exists()
    for folder in ("/usr/bin", "/usr/lib", "/usr/share", "/usr/local/bin", "/etc", "/opt", "/srv"):
        assert not Path(folder, mark).exists()


def test_users_can_be_made_and_own_files(box: Sandbox) -> None:
    assert box.run("useradd -m ada && groupadd crew && usermod -aG crew ada; id -Gn ada", 5).output == "ada crew\n"
    box.run("echo x > /srv/f; chown ada:crew /srv/f; chmod 600 /srv/f; echo y > /root/mine; chmod 600 /root/mine", 5)
    assert box.run("stat -c '%U:%G' /srv/f; su ada -c 'id -un; cat /srv/f'", 5).output == "ada:crew\nada\nx\n"
    assert "ermission denied" in box.run("su ada -c 'cat /root/mine'", 5).output
    assert box.read("/srv/f") == ("file", "x\n")
    copy = box.copy()
    assert copy is not None
    with copy:
        assert copy.run("stat -c '%U:%G %a' /srv/f; id -un 1000", 5).output == "ada:crew 600\nada\n"


def test_capabilities_are_those_that_are_listed(box: Sandbox) -> None:
    most = sum(1 << BITS[name] for name in CAPABILITIES)
    for line in box.run("grep -h ^Cap /proc/self/status /proc/2/status", 5).output.splitlines():
        assert int(line.split()[1], 16) & ~most == 0, line
    assert box.run("grep -hE '^Cap(Prm|Eff|Inh|Amb)' /proc/1/status | grep -vc 0000000000000000", 5).output == "0\n"
    assert int(box.run("grep CapEff /proc/self/status", 5).output.split()[1], 16) == most


REFUSED = {
    "win root by a setuid program": (
        "useradd ada; cp /bin/bash /srv/b; chmod 4755 /srv/b; su ada -c '/srv/b -pc \"id -u; id -ru\"'", "1000\n1000\n"
    ),
    "win root by the host's setuid programs": (
        "useradd ada; su ada -c 'echo | su root -c \"id -u\"; echo | passwd root' | grep -c '^0$'", "0\n"
    ),
    "win a capability by a file": (
        "useradd ada; cp /bin/grep /srv/g; setcap all=ep /srv/g 2>/dev/null; "
        "su ada -c '/srv/g CapEff /proc/self/status'", "CapEff:\t0000000000000000\n"
    ),
    "read the host's own programs": ("ls -A /usr/local/bin /usr/local/lib", "/usr/local/bin:\n\n/usr/local/lib:\n"),
    "read the host's homes": (
        "ls -A /home /opt /srv | grep -v :; ls /work /mnt /boot 2>&1 | grep -vc 'No such'", "0",
    ),
    "uncover what is hidden": (
        "setfattr -x user.overlay.opaque /usr/local 2>/dev/null; setfattr -n user.overlay.opaque -v n /usr/local "
        "2>/dev/null; perl -e 'syscall(197, \"/usr/local\", \"user.overlay.opaque\")'; rm -r /usr/local; "
        "mkdir /usr/local; ls -A /usr/local; rmdir /usr/local; ls /usr/local", "cannot access"
    ),
    "make a whiteout": ("mknod /usr/bin/evil c 0 0", "not permitted"),
    "make a device": ("mknod /usr/bin/disk b 254 0; mknod /root/zero c 1 5", "not permitted"),
    "open a device of a name of its own": ("cp -a /dev/zero /root/z; head -c 1 /root/z", "No such file|not permitted"),
    "mount an overlay": (
        "mkdir -p /a /b /c; mount -t overlay o -o lowerdir=/usr,upperdir=/a,workdir=/b /c",
        "denied|superuser|not permitted",
    ),
    "mount with the new calls": (
        "perl -e 'print syscall(430, my $f = \"tmpfs\", 0), \" \", syscall(428, -100, my $p = \"/usr\", 1), \" \", "
        "syscall(442, -100, $p, 0, my $a = \"\\0\" x 32, 32), \"\\n\"'", "-1 -1 -1"
    ),
    "find the layers": ("ls /tmp/lower0 /tmp/upper /lower0 /upper 2>&1 | grep -vc 'No such'", "0"),
    "allow user namespaces again": (
        "echo 100 > /proc/sys/user/max_user_namespaces; unshare -Ur true", "Read-only|ermission denied"
    ),
    "change the network's settings": ("echo 1 > /proc/sys/net/ipv4/ip_forward", "Read-only|ermission denied"),
    "bring up a network": ("ip link add d type dummy 2>&1; ip addr add 10.0.0.1/8 dev lo", "not permitted|not found"),
    "take another user's id of the host": ("perl -e '$< = $> = 70000; print \"$<\\n\"'", "0\n"),
    "signal as another user": ("useradd ada; su ada -c 'kill -9 1 2'; echo end", "not permitted"),
    "trace init as another user": (
        "useradd ada; su ada -c \"perl -e 'print syscall(101, 16, 1, 0, 0)'\"", "-1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_escape_is_refused(name: str, box: Sandbox) -> None:
    script, says = REFUSED[name]
    result = box.run(script, 10)
    assert any(part in result.output for part in says.split("|")), result
    assert box.run("echo alive", 5).output == "alive\n"


@pytest.mark.parametrize("groups", [True, False], ids=["control groups", "no control group"])
def test_many_users_have_no_more_processes_than_one(groups: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit per user would be one for each of 65536 users."""
    if not groups:
        monkeypatch.setattr(control_groups, "hierarchies", lambda: ())
    with Sandbox(Limits(disk_mb=16, memory_mb=256, processes=24), own=True) as box:
        script = (
            "for (2000..2040) { my $u = $_; fork or do { $( = $) = $u; $< = $> = $u; fork for 1..4; sleep 2; exit } }"
        )
        box.run(
            f"(perl -e '{script}' &) 2>/dev/null; read -t 0.7 < <(sleep 5); set -- /proc/[0-9]*; echo $# > /root/n", 3
        )
        box.stop()
        kind, text = box.read("/root/n")
        assert (kind, int(text) > 12, int(text) <= 26) == ("file", True, True), text


def _line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize(
    "script",
    [
        "dd if=/dev/zero of=/usr/share/big bs=1M count=64",
        "dd if=/dev/zero of=/etc/big bs=1M count=64",
        "for i in 1 2 3 4; do dd if=/dev/zero of=/usr/lib/big$i bs=1M count=8; done",
        "mkdir /usr/c; for f in /usr/bin/* /usr/lib/*/*.so*; do cat \"$f\" > /usr/c/${f##*/}; done",
        "for f in /usr/lib/*/lib*.so* /usr/bin/*; do chmod u+w $f; done",
    ],
)  # fmt: skip
def test_the_upper_layer_counts_against_the_disk(box: Sandbox, script: str) -> None:
    assert "No space left" in box.run(script, 20).output
    used = box.run("df --output=used -m / | tail -n 1", 5).output
    assert used.strip() in ("16", "") or box.run("rm -rf /usr/c /usr/share/big; echo ok", 5).output == "ok\n"
    box.stop()
    assert read_below(box.root_fd, "/etc/passwd")[0] == "file"


def test_many_files_are_refused(box: Sandbox) -> None:
    box.run("mkdir /usr/many; cd /usr/many; perl -e 'for (1..80000) { open my $f, \">\", $_ or last }'", 20)
    box.run("cd /; ls -U /usr/many | wc -l > /dev/shm/n", 10)
    assert 0 < int(box.run("cat /dev/shm/n", 5).output or 0) <= 65_536


def test_a_deep_tree_in_the_overlay_is_no_trouble(box: Sandbox) -> None:
    box.run("cd /usr/lib; for i in $(seq 500); do mkdir d && cd d || break; done; echo deep > f", 3)
    assert box.run("cd /root && rm -r /usr/lib/d && echo back", 5).output == "back\n"


def test_the_final_state_is_read_through_the_layers(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host secret")
    script = f"""rm /usr/bin/cut; echo mine > /usr/bin/wc; ln -sf {tmp_path}/secret /usr/bin/sort
    rm -r /usr/share/doc 2>/dev/null; mkdir /usr/share/doc; echo new > /usr/share/doc/n
    mkdir /usr/local/x; echo tool > /usr/local/bin/tool; mv /usr/bin/env /usr/bin/env2; echo >> /usr/bin/head"""
    box.run(script, 20)
    box.stop()
    names = ("bin/cut", "bin/wc", "bin/sort", "share/doc/n", "share/doc/bash", "local/bin/tool", "bin/env", "local/x")
    found = {name: box.read(f"/usr/{name}") for name in names}
    assert found == {
        "bin/cut": ("missing", ""), "bin/wc": ("file", "mine\n"), "bin/sort": ("link", ""),
        "share/doc/n": ("file", "new\n"), "share/doc/bash": ("missing", ""), "local/bin/tool": ("file", "tool\n"),
        "bin/env": ("missing", ""), "local/x": ("directory", ""),
    }  # fmt: skip


def test_a_program_of_the_agents_is_solved_with_and_does_not_reach_the_check() -> None:
    body = "greet | grep -q '^hello$' && test \"$(printf 'a\\nb\\n' | wc -l)\" = 2"
    check = f"/bin/bash -c {shlex.quote(body)} --"
    task = Task(environment="os", split="train", instruction="x", payload={"setup": "", "expect": {"checks": [check]}})
    good = "printf '#!/bin/sh\\necho hello\\n' > /usr/local/bin/greet; chmod 755 /usr/local/bin/greet"
    fake = "printf '#!/bin/sh\\nexit 0\\n' > {0}; chmod 755 {0}"
    for script, codes in {
        good: [0],
        "true": [1],
        fake.format("/usr/bin/grep") + "; touch /usr/local/bin/greet": [1],
        fake.format("/usr/local/bin/grep"): [1],
        fake.format("/usr/local/bin/wc") + "; " + good: [0],
        f"rm /usr/bin/wc; {good}": [0],
        f"rm -r /usr/local; {good}": [1],
        f"rm -r /usr/local; mkdir -p /usr/local/bin; {good}": [0],
        "mkdir /usr/local/b2; rmdir /usr/local/bin; ln -s b2 /usr/local/bin; " + good: [0],
    }.items():
        with OperatingSystem(OperatingSystemSettings()) as env:
            env.reset(task)
            env.step(Action(name="bash", arguments={"script": script}))
            env.step(Action(name="finish"))
            evidence = env.close()
        assert evidence["checks"] == codes, script
        assert evidence["isolation"].startswith("own root")


def test_nothing_is_left_when_the_parent_is_killed() -> None:
    code = "import sys,time; from agenttuning.environments.sandbox import Sandbox\n"
    code += "b = Sandbox(own=True); b.run('(setsid sleep 4733.5 &)', 5); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert _marked("4733.5")
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (left := _marked("4733.5") + _marked("launcher.py", str(parent.pid))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert "overlay" not in "".join(_mounts("4733.5"))


def _marked(mark: str, parent: str | None = None) -> list[str]:
    """Return processes whose command line holds `mark`, of one parent if given."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and mark in _line(process):
            status = (process / "stat").read_text() if parent else ""
            if parent is None or status.rpartition(")")[2].split()[1] == parent:
                found.append(process.name)
    return found


def _mounts(_mark: str) -> list[str]:
    """Return mounts of overlays over a box's layers, in this process' view."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if "upperdir=/tmp/upper" in line]


def test_thirty_two_boxes_at_once_know_nothing_of_each_other() -> None:
    boxes: list[Sandbox] = []
    try:
        for number in range(32):
            box = Sandbox(own=True)
            boxes.append(box)
            box.run(f"echo {number} > /usr/bin/number; useradd u{number}", 5)
        for number, box in enumerate(boxes):
            assert box.run("cat /usr/bin/number; tail -n 1 /etc/passwd", 5).output.startswith(f"{number}\nu{number}:")
        assert len({os.fstat(box.root_fd).st_uid for box in boxes}) == (32 if os.geteuid() == 0 else 1)
    finally:
        for box in boxes:
            box.close()


def test_a_box_starts_in_time() -> None:
    Sandbox(own=True).close()
    seconds = []
    for _ in range(15):
        started = time.perf_counter()
        with Sandbox(own=True) as box:
            box.run("true", 5)
            seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[len(seconds) // 2] < 0.2  # 15 ms on an idle machine


def test_where_the_system_refuses_it_the_shared_system_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise launching.Refused("sandbox: mount an overlay: Operation not permitted")

    monkeypatch.setattr(bubblewrap, "launch", refuse)
    monkeypatch.setattr(bubblewrap, "_refused", {})
    level, reason = sandbox_level()
    assert level.startswith("shared system")
    assert "mount an overlay" in str(reason)
    with Sandbox() as box:
        assert not box.own
    with pytest.raises(ConfigurationError, match=r"Linux 6\.6"):
        Sandbox(own=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of a few programs and their libraries, with files that the host does not have."""
    top = tmp_path_factory.mktemp("root")
    names = ("bash", "cat", "chmod", "chown", "grep", "ls", "mkdir", "rm", "setpriv", "stat", "tar", "touch", "xargs")
    for name in names:
        program = Path(shutil.which(name) or "", "").resolve()
        needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
        for file in (program, *(Path(word) for word in needed if word.startswith("/"))):
            target = top / "usr" / str(file.parent).removeprefix("/usr").lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    for name in ("bin", "sbin", "lib", "lib64"):
        (top / name).symlink_to(f"usr/{name}")
        (top / "usr" / name).mkdir(exist_ok=True)
    for folder in ("etc", "root", "tmp", "proc", "dev", "var/lib/old", "home/eve", "usr/local/bin"):
        (top / folder).mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\neve:x:1000:1000::/home/eve:/bin/bash\n")
    (top / "etc/os-release").write_text("NAME=Own\n")
    (top / "etc/fstab").write_text("none\n")
    (top / "var/lib/old/a").write_text("a\n")
    os.chown(top / "home/eve", 1000, 1000) if os.geteuid() == 0 else None
    return top


@pytest.mark.skipif(os.geteuid() != 0, reason="the files of this root belong to this user, not to a range of ids")
def test_a_root_file_system_of_the_users_is_what_a_box_sees(root: Path) -> None:
    with Sandbox(Limits(disk_mb=16, memory_mb=256, processes=24), str(root)) as box:
        assert box.isolation == f"own root over {root}, a range of users"
        assert (
            box.run("cat /etc/os-release; stat -c '%U %u' /home/eve /root", 5).output == "NAME=Own\neve 1000\nroot 0\n"
        )
        assert "not found" in box.run("perl -v", 5).output
        script = """rm /etc/fstab; rm -r /var/lib/old; mkdir /var/lib/old; echo b > /var/lib/old/b
        rm -r /home/eve; echo f > /home/eve; echo x >> /etc/passwd; echo evil > /usr/bin/grep; echo t > /usr/local/bin/t
        chown 1000 /root"""
        assert box.run(script, 5).output == ""
        box.stop()
        assert box.read("/etc/fstab") == ("missing", "")
        assert box.read("/var/lib/old/a") == ("missing", "")
        assert box.read("/var/lib/old/b") == ("file", "b\n")
        assert box.read("/usr/bin/grep") == ("file", "evil\n")
        copy = box.copy()
        assert copy is not None
        with copy:
            shown = copy.run("ls /etc /var/lib/old /home /usr/local/bin; cat /home/eve; stat -c %u /root", 5).output
            listed = " ".join(shown.split())
            assert listed == "/etc: os-release passwd /home: eve /usr/local/bin: t /var/lib/old: b f 1000"
            assert copy.run("grep -c . /etc/passwd", 5).output == "3\n"
    assert (root / "etc/fstab").read_text() == "none\n"
    assert (root / "usr/bin/grep").stat().st_size > 1000
    assert (root / "var/lib/old/a").exists()


def test_a_root_that_is_none_is_named_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="debootstrap"):
        Sandbox(root=str(tmp_path))
    with pytest.raises(ValueError, match="docker_image"):
        OperatingSystemSettings(root=str(tmp_path), sandbox="docker")


def test_the_doctor_says_which_level_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._sandbox("os", None).level == "ok"
    assert "own root" in doctor._sandbox("os", None).state
    monkeypatch.setitem(bubblewrap._refused, None, "sandbox: mount an overlay: refused")
    found = doctor._sandbox("os", None)
    assert (found.level, found.what) == ("note", "sandbox of os")
    assert "shared system" in found.state
    assert "mount an overlay" in found.cure
    assert doctor._sandbox("os", "/nowhere").level == "missing"
