"""A program of its own: starts bubblewrap in a user namespace with a range of ids, over a root that can be written.

It runs once beside each process that starts boxes, single-threaded and small, so that it may fork, which a process
with threads may not. A request comes on standard input as one JSON message with descriptors: where the answer goes,
the box's first three, and those that bubblewrap is told of, which become `FIRST` and following. For each, a child

1. enters a new user and a new mount namespace, under an outside user of its own whose limit on processes counts all
   of the box, whichever users the box has;
2. is given the ids 0 to 65535, and the lower directories with their owners shifted into that range where the
   kernel and their file system can (idmapped mounts);
3. mounts one tmpfs of the disk's size, and each lower directory as an overlay whose upper layer lies on it;
4. answers with two handles on the result, seen with and without its overlays, and becomes bubblewrap.

All mounts are in the child's namespace, so they end with its processes and handles. When this program or the process
that started it ends, bubblewrap ends too (`--die-with-parent`). Needs Linux 6.6 (user attributes on a tmpfs).
Imports the standard library alone: it is started without the package's path.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

FIRST = 10
"""Number of the first of bubblewrap's further descriptors."""
IDS = 65536
BASE = 2**29
"""First outside id of the boxes' ranges where this runs as root of the host; one range a box."""
RANGES = 24_576
MOST_BYTES = 2**17
MOST_DESCRIPTORS = 32
WORK = "/tmp"
"""Where a child mounts its tmpfs, in its own namespace."""

NEW_USER, NEW_MOUNTS = 0x10000000, 0x20000
NO_SUID, NO_DEV, RECURSIVE, PRIVATE = 2, 4, 0x4000, 0x40000
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
TREE_CLONE, TREE_CLOSE, AT_RECURSIVE, AT_EMPTY_PATH, AT_CWD = 1, os.O_CLOEXEC, 0x8000, 0x1000, -100
MOVE_FROM_EMPTY_PATH, ATTR_IDMAP = 4, 0x100000
DEATH_SIGNAL = 1
REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOSPC,
            errno.EROFS, errno.EUSERS, errno.EOVERFLOW)  # fmt: skip
"""What a system answers that cannot do a step at all, as opposed to one that is short of something now."""

_libc = ctypes.CDLL(None, use_errno=True)


def main(entered: bool) -> None:
    """Answer requests until the other side is gone.

    Args:
        entered: this runs as the root of a user namespace that was made for it, and whose ids the boxes share.
    """
    _libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = socket.socket(fileno=0)
    requests.send(b"1")
    number = os.getpid() * 64
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, MOST_DESCRIPTORS)
        if not message:
            return
        number += 1
        try:
            _serve(json.loads(message), descriptors, number, entered)
        except (OSError, EOFError) as error:
            refused = isinstance(error, OSError) and error.errno in REFUSALS
            _answer(socket.socket(fileno=os.dup(descriptors[0])), {"error": str(error), "refused": refused})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _serve(request: dict[str, Any], descriptors: list[int], number: int, entered: bool) -> None:
    """Start one box, and answer with its process."""
    maps = _own_maps()
    if entered:
        # A range of the map may not lie across two of the namespace's own.
        owner, outside, ranges = 1 + number % (maps[-1][2] - 1), maps, [(first, first, size) for first, _, size in maps]
    else:
        owner = base = BASE + number % RANGES * IDS
        outside, ranges = [[0, base, IDS]], [(0, base, IDS)]
        if not any(first <= base and base + IDS <= first + size for first, _, size in maps):
            raise OSError(errno.EINVAL, f"this user namespace has no ids from {base} to {base + IDS}")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            _child(request, descriptors, theirs, owner)
        theirs.close()
        handle = os.pidfd_open(pid)
        try:
            answer = socket.socket(fileno=os.dup(descriptors[0]))
            _answer(answer, {"pid": pid, "ids": outside}, [handle])
            if not ours.recv(1):
                return
            for kind in ("uid", "gid"):
                with open(f"/proc/{pid}/{kind}_map", "w") as file:
                    file.write("".join(f"{inside} {first} {size}\n" for inside, first, size in ranges))
            trees = [] if entered else _shifted([source for source, _ in request["lower"]], pid)
            socket.send_fds(ours, [b"1"], trees)
            for tree in trees:
                os.close(tree)
        finally:
            os.close(handle)


def _shifted(sources: list[str], pid: int) -> list[int]:
    """Return handles on the directories with their owners in the range of a process; none where that cannot be had."""
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    trees = []
    try:
        for source in sources:
            tree = _system_call(OPEN_TREE, AT_CWD, source.encode(), TREE_CLONE | TREE_CLOSE)
            trees.append(tree)
            attributes = struct.pack("QQQQ", ATTR_IDMAP, 0, 0, namespace)
            _system_call(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, len(attributes))
    except OSError:
        for tree in trees:
            os.close(tree)
        return []
    finally:
        os.close(namespace)
    return trees


def _child(request: dict[str, Any], descriptors: list[int], parent: socket.socket, owner: int) -> NoReturn:
    """Become a box; what fails is answered with its step."""
    answer, step = socket.socket(fileno=descriptors[0]), "enter"
    try:
        os.setgroups([])
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, owner)
        resource.setrlimit(resource.RLIMIT_NPROC, (request["processes"], request["processes"]))
        step = "make a user and a mount namespace"
        _checked(_libc.unshare(NEW_USER | NEW_MOUNTS))
        parent.send(b"1")
        step = "have a range of user ids"
        message, trees, _, _ = socket.recv_fds(parent, 1, MOST_DESCRIPTORS)
        if not message:
            raise OSError(errno.EPERM, "refused")
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        step = "forbid further user namespaces"
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        step = "mount an overlay"
        top, layer = _mount(request, trees)
        _answer(answer, {}, [top, layer])
        step = "start bubblewrap"
        for ours in signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ:  # Python ignores the last two.
            signal.signal(ours, signal.SIG_DFL)
        os.chdir("/")
        _take_numbers(descriptors[1:])
        os.execve(request["command"][0], request["command"], {})
    except BaseException as error:
        number = error.errno if isinstance(error, OSError) else None
        try:
            if step == "start bubblewrap":
                os.write(2, f"bwrap: {error}\n".encode())
            _answer(answer, {"error": f"{step}: {error}", "refused": number in REFUSALS})
        finally:
            os._exit(1)


def _mount(request: dict[str, Any], trees: list[int]) -> tuple[int, int]:
    """Make the root, and return handles on it: with its overlays, and the upper layer alone."""
    umask = os.umask(0)
    _mount_call("none", "/", None, RECURSIVE | PRIVATE)
    # Before the tmpfs covers what may lie below it.
    for source, _ in request["lower"][len(trees) :]:
        trees.append(_system_call(OPEN_TREE, AT_CWD, source.encode(), TREE_CLONE | TREE_CLOSE))
    size = f"size={request['disk_mb']}m,nr_inodes={request['files']},mode=755"
    _mount_call("tmpfs", WORK, "tmpfs", NO_SUID | NO_DEV, size)
    os.mkdir(f"{WORK}/upper", 0o755)
    for path, mode in request["directories"].items():
        os.mkdir(f"{WORK}/upper{path}", mode)
    for path, target in request["links"].items():
        os.symlink(target, f"{WORK}/upper{path}")
    for path, (mode, text) in request["texts"].items():
        with open(os.open(f"{WORK}/upper{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
    os.mkdir(f"{WORK}/root", 0o755)
    top = f"{WORK}/upper"
    for number, ((_, target), tree) in enumerate(zip(request["lower"], trees, strict=True)):
        lower, work = f"{WORK}/lower{number}", f"{WORK}/work{number}"
        os.mkdir(lower)
        os.mkdir(work)
        _system_call(MOVE_MOUNT, tree, b"", AT_CWD, lower.encode(), MOVE_FROM_EMPTY_PATH)
        if target == "/":
            top = place = f"{WORK}/root"
            if os.stat(lower).st_uid != 0:
                raise OSError(errno.EOVERFLOW, "the root's files belong to none of the box's users")
        else:
            place = f"{WORK}/upper{target}"
            os.makedirs(place, 0o755, exist_ok=True)
            _make_upper(lower, place)
        layers = f"lowerdir={lower},upperdir={WORK}/upper{target},workdir={work},userxattr"
        # What the upper layer holds below an opaque directory is all that is seen of it.
        before = {path: os.listdir(f"{WORK}/upper{path}") for path in request["opaque"] if path.startswith(target)}
        for path in before:
            os.setxattr(f"{WORK}/upper{path}", "user.overlay.opaque", b"y")
        _mount_call("overlay", place, "overlay", NO_SUID | NO_DEV, layers)
        for path, names in before.items():
            if sorted(os.listdir(f"{place}{path.removeprefix(target)}")) != sorted(names):
                raise OSError(errno.EOPNOTSUPP, f"an overlay shows what {path} hides")
    os.umask(umask)
    whole = _system_call(OPEN_TREE, AT_CWD, top.encode(), TREE_CLONE | TREE_CLOSE | AT_RECURSIVE)
    layer = _system_call(OPEN_TREE, AT_CWD, f"{WORK}/upper".encode(), TREE_CLONE | TREE_CLOSE)
    return whole, layer


def _make_upper(lower: str, upper: str) -> None:
    """Make the first level of directories where those below have no owner in the box, which could not add to them."""
    if os.stat(lower).st_uid == 0:
        return
    with os.scandir(lower) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not os.path.lexists(f"{upper}/{entry.name}"):
                os.mkdir(f"{upper}/{entry.name}", 0o755)


def _take_numbers(descriptors: list[int]) -> None:
    """Give the descriptors the numbers 0 to 2 and `FIRST` on, and close all others."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in descriptors]
    wanted = [0, 1, 2, *range(FIRST, FIRST + len(high) - 3)]
    for descriptor, number in zip(high, wanted, strict=True):
        os.dup2(descriptor, number, inheritable=True)
    os.closerange(3, FIRST)
    os.closerange(FIRST + len(high) - 3, 2**20)


def _own_maps() -> list[list[int]]:
    """Return first id inside, first id outside, and how many, of each range of this namespace."""
    with open("/proc/self/uid_map") as file:
        return [[int(value) for value in line.split()] for line in file]


def _answer(target: socket.socket, content: dict[str, Any], descriptors: list[int] | None = None) -> None:
    socket.send_fds(target, [json.dumps(content).encode()], descriptors or [])


def _mount_call(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _checked(_libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]))


def _system_call(number: int, *arguments: int | bytes) -> int:
    return _checked(_libc.syscall(number, *arguments))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


if __name__ == "__main__":
    main(entered=sys.argv[1:] == ["entered"])
