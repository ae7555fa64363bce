"""Reads the final state of a bubblewrap box from outside it.

The reader is this process, not a program of the box: it walks one path component at a time from the box's root
handle, follows no symbolic link, and reads a bounded number of bytes from regular files only. So an agent can
neither forge what is read by replacing commands nor point it at a file of the host.
"""

import errno
import os
import stat

FILE_LIMIT = 64 * 1024
"""Longest file in bytes whose content is collected."""


def path_parts(path: str) -> list[str]:
    """Return the components of an absolute, normal path.

    Raises:
        ValueError: it is not absolute, or has empty components, `.` or `..`.
    """
    parts = path.removeprefix("/").split("/")
    if not path.startswith("/") or not all(parts) or ".." in parts or "." in parts:
        raise ValueError(f"sandbox: {path!r} is not an absolute, normal path")
    return parts


def read_below(root_fd: int, path: str) -> tuple[str, str]:
    """Return kind and text of one absolute path below `root_fd`.

    The kind is `file`, `directory`, `missing`, `link`, `too_big`, `unreadable` or `other`; the text is empty but for
    files, and holds the replacement character for undecodable bytes.
    """
    parts = path_parts(path)
    directory = os.dup(root_fd)
    try:
        for part in parts[:-1]:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=directory)
            os.close(directory)
            directory = inner
        return _read(parts[-1], directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return "missing", ""
        return "unreadable", ""
    finally:
        os.close(directory)


def text_of(data: bytes) -> tuple[str, str]:
    """Return kind and text of a regular file's first `FILE_LIMIT` + 1 bytes."""
    return ("too_big", "") if len(data) > FILE_LIMIT else ("file", data.decode(errors="replace"))


def _read(name: str, directory: int) -> tuple[str, str]:
    before = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(before.st_mode):
        return "link", ""
    if stat.S_ISDIR(before.st_mode):
        return "directory", ""
    if not stat.S_ISREG(before.st_mode):
        return "other", ""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(fd, "rb") as file:
        return text_of(file.read(FILE_LIMIT + 1))
