"""What a bubblewrap box sees: the programs that run it, and the arguments that make its namespaces and its root."""

import functools
import os
from pathlib import Path

WARDEN = """\
ulimit -c 0; ulimit -n 256; ulimit -u @PROCESSES@; ulimit -v @MEMORY_KB@; ulimit -f @DISK_KB@; ulimit -q 0; ulimit -l 0
echo 1000 > /proc/self/oom_score_adj
scripts=$1
exec 3<&"$scripts" {scripts}<&- 4>&2 5<&0 2>/dev/null </dev/null
printf 'root:x:0:0:root:/root:/bin/bash\\nnobody:x:65534:65534:nobody:/:/bin/false\\n' > /etc/passwd
printf '%s\\n' root:x:0: daemon:x:1: bin:x:2: sys:x:3: adm:x:4: tty:x:5: disk:x:6: mail:x:8: sudo:x:27: \\
  www-data:x:33: staff:x:50: users:x:100: nogroup:x:65534: > /etc/group
printf 'passwd: files\\ngroup: files\\nhosts: files\\n' > /etc/nsswitch.conf
printf '127.0.0.1 localhost box\\n' > /etc/hosts
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


def warden(memory_mb: int, processes: int, disk_mb: int) -> str:
    """Return the warden's script with its limits."""
    # A file may be as large as the disk, plus a little: the disk's own end gives the clearer message.
    values = {"@PROCESSES@": processes, "@MEMORY_KB@": memory_mb * 1024, "@DISK_KB@": disk_mb * 1024 + 1024}
    text = WARDEN
    for name, value in values.items():
        text = text.replace(name, str(value))
    return text


@functools.cache
def _system_view() -> tuple[str, ...]:
    """Return the arguments that show the host's programs, and nothing else of the host."""
    arguments = ["--ro-bind", "/usr", "/usr", "--tmpfs", "/usr/local", "--remount-ro", "/usr/local"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--dir", "/etc", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    return tuple(arguments)


def view(disk_mb: int) -> list[str]:
    """Return bubblewrap's arguments for a box's namespaces, root view and surroundings."""
    return [
        *("--unshare-user", "--uid", "0", "--gid", "0", "--disable-userns"),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--die-with-parent", "--new-session", "--hostname", "box", "--clearenv"),
        *("--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin", "--setenv", "HOME", "/root"),
        *("--setenv", "USER", "root", "--setenv", "LANG", "C.UTF-8", "--setenv", "TERM", "dumb"),
        *("--size", str(disk_mb * 2**20), "--tmpfs", "/"),
        *_system_view(),
        *("--dir", "/root", "--dir", "/var/log", "--dir", "/opt", "--dir", "/srv", "--dir", "/home"),
        *("--perms", "1777", "--dir", "/tmp", "--proc", "/proc"),
        # The tmpfs that bubblewrap mounts at /dev has no size limit.
        *("--dev", "/dev", "--remount-ro", "/dev", "--size", str(4 * 2**20), "--tmpfs", "/dev/shm"),
        *("--chdir", "/root"),
    ]
