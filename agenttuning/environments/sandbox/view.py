"""What a bubblewrap box sees: the programs that run it, and the arguments that make its namespaces and its root."""

import functools
import os
import shlex
from pathlib import Path
from typing import Any

from agenttuning.environments.sandbox.launcher import WORK

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SYSTEM_NAMES = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Directories of the host, or links to them, that hold its programs."""
MOST_FILES = 65_536
"""How many files and directories the box may have of its own."""
CAPABILITIES = ("chown", "dac_override", "fowner", "fsetid", "kill", "net_bind_service", "setgid", "setuid")
"""Those of a Docker container's root but for raw sockets, devices, other roots, audit and passing capabilities on."""
BOUNDED = (
    *("/usr/bin/setpriv", "--bounding-set", ",".join(["-all", *(f"+{name}" for name in CAPABILITIES)])),
    *("--inh-caps", "-setpcap", "--"),
)
"""Ends what bubblewrap leaves open: a set of capabilities that a program might win by what it starts."""

TEXTS = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\nsudo:x:27:\n"
    "www-data:x:33:\nstaff:x:50:\nusers:x:100:\nnogroup:x:65534:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/hosts": "127.0.0.1 localhost box\n",
}
"""Files of `/etc` where the system's directories are the host's."""
USER_TEXTS = {
    "/etc/login.defs": "UMASK 022\nHOME_MODE 0755\nUID_MIN 1000\nUID_MAX 60000\nSYS_UID_MIN 101\nSYS_UID_MAX 999\n"
    "GID_MIN 1000\nGID_MAX 60000\nSYS_GID_MIN 101\nSYS_GID_MAX 999\nUSERGROUPS_ENAB yes\nCREATE_HOME no\n"
    f"ENCRYPT_METHOD SHA512\nENV_SUPATH PATH={PATH}\nENV_PATH PATH=/usr/local/bin:/usr/bin:/bin\n",
    "/etc/pam.d/other": "auth sufficient pam_rootok.so\nauth required pam_unix.so\naccount required pam_unix.so\n"
    "password required pam_unix.so\nsession required pam_unix.so\n",
}
"""What `useradd`, `su` and `passwd` read."""
DIRECTORIES = ("/root", "/var", "/var/log", "/opt", "/srv", "/home")
LOCAL_NAMES = ("bin", "etc", "games", "include", "lib", "sbin", "share", "src")

WARDEN = """\
ulimit -c 0; ulimit -n 256; ulimit -u @PROCESSES@; ulimit -v @MEMORY_KB@; ulimit -f @DISK_KB@; ulimit -q 0; ulimit -l 0
echo 1000 > /proc/self/oom_score_adj
scripts=$1
exec 3<&"$scripts" {scripts}<&- 4>&2 5<&0 2>/dev/null </dev/null
@TEXTS@
start() { (exec 5<&- 2>&1; while :; do /bin/bash /.box/shell; printf 'exited %d\\n' $? >&4; done) & }
start
while read -r -u 5 request; do
  kill -KILL -1
  wait
  while kill -0 -1; do :; done
  start
  printf 'killed\\n' >&4
done
"""
"""Process 2 of a box: starts shells, and on request kills all but itself and starts a new one.

It waits until the last is gone: a dying shell may still take the first byte of the next script.
"""


def warden(memory_mb: int, processes: int, disk_mb: int, *, writes: bool) -> str:
    """Return the warden's script with its limits; it also writes `TEXTS` where nobody else did."""
    # A file may be as large as the disk, plus a little: the disk's own end gives the clearer message.
    values = {"@PROCESSES@": processes, "@MEMORY_KB@": memory_mb * 1024, "@DISK_KB@": disk_mb * 1024 + 1024}
    lines = [f"printf %s {shlex.quote(content)} > {path}" for path, content in TEXTS.items()] if writes else []
    text = WARDEN
    for name, value in {**values, "@TEXTS@": "\n".join(lines)}.items():
        text = text.replace(name, str(value))
    return text


def own_root(root: str | None) -> dict[str, Any]:
    """Return what the launcher makes the root of: the host's system directories, or the root file system at `root`."""
    if root is not None:
        return {"lower": [[root, "/"]], "directories": {}, "links": {}, "texts": {}, "opaque": []}
    real, links = _system()
    local = ["/usr/local", *(f"/usr/local/{name}" for name in LOCAL_NAMES)]
    directories = [*real, "/etc", "/etc/pam.d", "/etc/skel", *local, *DIRECTORIES]
    return {
        "lower": [[path, path] for path in real],
        "directories": {**dict.fromkeys(directories, 0o755), "/tmp": 0o1777},
        "links": {**links, "/etc/os-release": "../usr/lib/os-release", "/usr/local/man": "share/man"},
        "texts": {path: [0o644, text] for path, text in {**TEXTS, **USER_TEXTS}.items()},
        "opaque": ["/usr/local"],
    }


@functools.cache
def _system() -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the host's directories of programs, and the links to them with their targets."""
    paths = [Path("/", name) for name in SYSTEM_NAMES]
    links = {str(path): os.readlink(path) for path in paths if path.is_symlink()}
    return tuple(str(path) for path in paths if path.is_dir() and not path.is_symlink()), links


def view(disk_mb: int, root: str | None, *, own: bool) -> list[str]:
    """Return bubblewrap's arguments for a box's namespaces, root view and surroundings.

    Args:
        disk_mb: size of the box's disk where bubblewrap makes it.
        root: the root file system that the box's is made of, or None.
        own: the launcher has made a root and the ids; else the host's programs are shown, for one user.
    """
    return [
        *(() if own else ("--unshare-user", "--uid", "0", "--gid", "0", "--disable-userns")),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--die-with-parent", "--new-session", "--hostname", "box", "--clearenv"),
        *("--setenv", "PATH", PATH, "--setenv", "HOME", "/root"),
        *("--setenv", "USER", "root", "--setenv", "LANG", "C.UTF-8", "--setenv", "TERM", "dumb"),
        *(_own_view(root) if own else _shared_view(disk_mb)),
        *("--proc", "/proc"),
        # The tmpfs that bubblewrap mounts at /dev has no size limit.
        *("--dev", "/dev", "--remount-ro", "/dev", "--size", str(4 * 2**20), "--tmpfs", "/dev/shm"),
        *("--chdir", "/root"),
    ]


def _own_view(root: str | None) -> list[str]:
    arguments = ["--cap-drop", "ALL"]
    for name in (*CAPABILITIES, "setpcap"):
        arguments += ["--cap-add", f"CAP_{name.upper()}"]
    if root is not None:
        return [*arguments, "--bind", f"{WORK}/root", "/"]
    return [*arguments, "--bind", f"{WORK}/upper", "/", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]


def _shared_view(disk_mb: int) -> list[str]:
    arguments = ["--size", str(disk_mb * 2**20), "--tmpfs", "/"]
    real, links = _system()
    for path in real:
        arguments += ["--ro-bind", path, path]
    arguments += ["--tmpfs", "/usr/local", "--remount-ro", "/usr/local"]
    for path, target in links.items():
        arguments += ["--symlink", target, path]
    arguments += ["--dir", "/etc", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    arguments += ["--symlink", "../usr/lib/os-release", "/etc/os-release"]
    for path in DIRECTORIES:
        arguments += ["--dir", path]
    return [*arguments, "--perms", "1777", "--dir", "/tmp"]
