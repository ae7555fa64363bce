"""Packs the files of a stopped box, from outside it, so that a fresh box can unpack them and check them.

Left out is what decides which program runs: the system's directories and links, which a script can replace by its own
(the root of a box is writable), and the files that the dynamic loader reads. So are devices, pipes and sockets. Kept is
`/usr/local`, which comes last on the path of what is run on the copy. No symbolic link is followed: links are packed as
links.

Where the box's root is an overlay, what is packed is its upper layer: all that differs from what a fresh box shows.
What the layer says is gone (a whiteout, or the old content of an opaque directory) is returned as a list.
"""

import os
import stat
import tarfile
from collections.abc import Sequence
from typing import BinaryIO

SYSTEM = frozenset({"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "proc", "sys", "dev", ".box"})
"""Entries of the root that a box has of its own."""
LOCAL = "usr/local"
"""What is kept of them."""
LOADER = frozenset({"alternatives", "ld.so.preload", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"})
"""Entries of `/etc` that decide which program or library is loaded."""
MOST_ENTRIES = 20_000
MOST_DEPTH = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


Ids = Sequence[tuple[int, int, int]]
"""First id in the box, first id outside, how many."""


class TooMuch(Exception):
    """A box holds more files, bytes or levels than are packed, or some that cannot be read."""


def is_system(path: str) -> bool:
    """Say whether an absolute path is left out of a copy."""
    path = path.strip("/")
    if f"{path}/".startswith(f"{LOCAL}/"):
        return False
    first, _, rest = path.partition("/")
    return first in SYSTEM or (first == "etc" and rest.partition("/")[0] in LOADER)


def pack(layer: int, most_bytes: int, target: BinaryIO, ids: Ids = (), *, replaces: bool = False) -> list[str]:
    """Write all files of a layer as a tar archive.

    Args:
        layer: handle of its top; no process may change it meanwhile.
        most_bytes: sum of the files' sizes.
        target: where the archive is written.
        ids: which ids of the box are which outside; others become root.
        replaces: files may lie where a fresh box has a directory.

    Returns:
        Paths, relative to the root, that are to be deleted before the archive is unpacked.

    Raises:
        TooMuch: as its text says.
    """
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        packer = _Packer(archive, most_bytes, ids, replaces)
        try:
            root = os.open(".", _DIRECTORY, dir_fd=layer)
            try:
                packer.directory(root, "")
            finally:
                os.close(root)
        except OSError as error:
            raise TooMuch(str(error)) from error
    return packer.deleted


class _Packer:
    """Walks directories by their handles, and counts what it packs."""

    def __init__(self, archive: tarfile.TarFile, most_bytes: int, ids: Ids, replaces: bool) -> None:
        self.deleted: list[str] = []
        self._archive = archive
        self._bytes = most_bytes
        self._entries = MOST_ENTRIES
        self._ids = ids
        self._replaces = replaces

    def directory(self, handle: int, path: str) -> None:
        if path.count("/") > MOST_DEPTH:
            raise TooMuch("too many levels")
        with os.scandir(handle) as entries:
            for entry in entries:
                inner = f"{path}/{entry.name}"
                if not is_system(inner) or _above_local(inner):
                    self._entry(handle, entry.name, inner)

    def _entry(self, directory: int, name: str, path: str) -> None:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        self._entries -= 1
        self._bytes -= found.st_size if stat.S_ISREG(found.st_mode) else 0
        if self._entries < 0 or self._bytes < 0:
            raise TooMuch("too many files or bytes")
        info = tarfile.TarInfo(path.lstrip("/"))
        info.mode, info.mtime = stat.S_IMODE(found.st_mode), found.st_mtime
        info.uid, info.gid = self._inside(found.st_uid), self._inside(found.st_gid)
        if stat.S_ISDIR(found.st_mode):
            self._inner(directory, name, path, info)
            return
        if self._replaces or (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
            self.deleted.append(info.name)
        if stat.S_ISLNK(found.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=directory)
            self._archive.addfile(info)
        elif stat.S_ISREG(found.st_mode):
            info.size = found.st_size
            with os.fdopen(os.open(name, _FILE, dir_fd=directory), "rb") as content:
                self._archive.addfile(info, content)

    def _inner(self, directory: int, name: str, path: str, info: tarfile.TarInfo) -> None:
        info.type = tarfile.DIRTYPE
        handle = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            if _opaque(handle):
                self.deleted.append(info.name)
            if not _above_local(path):
                self._archive.addfile(info)
            self.directory(handle, path)
        finally:
            os.close(handle)

    def _inside(self, outside: int) -> int:
        for inside, first, count in self._ids:
            if first <= outside < first + count:
                return inside + outside - first
        return 0


def _above_local(path: str) -> bool:
    return f"/{LOCAL}".startswith(f"{path}/")


def _opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, "user.overlay.opaque") == b"y"
    except OSError:
        return False
