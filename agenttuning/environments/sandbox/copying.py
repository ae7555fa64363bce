"""Packs the files of a stopped box, from outside it, so that a fresh box can unpack them and check them.

Left out is what decides which program runs: the system's directories and links, which a script can replace by its own
(the root of a box is writable), and the files that the dynamic loader reads. So are devices, pipes and sockets. No
symbolic link is followed: links are packed as links.
"""

import os
import stat
import tarfile
from typing import BinaryIO

SYSTEM = frozenset({"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "proc", "sys", "dev", ".box"})
"""Entries of the root that a box has of its own."""
LOADER = frozenset({"alternatives", "ld.so.preload", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"})
"""Entries of `/etc` that decide which program or library is loaded."""
MOST_ENTRIES = 20_000
MOST_DEPTH = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class TooMuch(Exception):
    """A box holds more files, bytes or levels than are packed, or some that cannot be read."""


def is_system(path: str) -> bool:
    """Say whether an absolute path is left out of a copy."""
    first, _, rest = path.strip("/").partition("/")
    return first in SYSTEM or (first == "etc" and rest.partition("/")[0] in LOADER)


def pack(root_fd: int, most_bytes: int, target: BinaryIO) -> None:
    """Write all files below a root as a tar archive.

    Args:
        root_fd: handle of the root; no process may change it meanwhile.
        most_bytes: sum of the files' sizes.
        target: where the archive is written.

    Raises:
        TooMuch: as its text says.
    """
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        packer = _Packer(archive, most_bytes)
        try:
            root = os.open(".", _DIRECTORY, dir_fd=root_fd)
            try:
                packer.directory(root, "")
            finally:
                os.close(root)
        except OSError as error:
            raise TooMuch(str(error)) from error


class _Packer:
    """Walks directories by their handles, and counts what it packs."""

    def __init__(self, archive: tarfile.TarFile, most_bytes: int) -> None:
        self._archive = archive
        self._bytes = most_bytes
        self._entries = MOST_ENTRIES

    def directory(self, handle: int, path: str) -> None:
        if path.count("/") > MOST_DEPTH:
            raise TooMuch("too many levels")
        with os.scandir(handle) as entries:
            for entry in entries:
                inner = f"{path}/{entry.name}"
                if not is_system(inner):
                    self._entry(handle, entry.name, inner)

    def _entry(self, directory: int, name: str, path: str) -> None:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        self._entries -= 1
        self._bytes -= found.st_size if stat.S_ISREG(found.st_mode) else 0
        if self._entries < 0 or self._bytes < 0:
            raise TooMuch("too many files or bytes")
        info = tarfile.TarInfo(path.lstrip("/"))
        info.mode, info.mtime = stat.S_IMODE(found.st_mode), found.st_mtime
        if stat.S_ISLNK(found.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=directory)
            self._archive.addfile(info)
        elif stat.S_ISDIR(found.st_mode):
            info.type = tarfile.DIRTYPE
            self._archive.addfile(info)
            handle = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                self.directory(handle, path)
            finally:
                os.close(handle)
        elif stat.S_ISREG(found.st_mode):
            info.size = found.st_size
            with os.fdopen(os.open(name, _FILE, dir_fd=directory), "rb") as content:
                self._archive.addfile(info, content)
