"""Reads and writes files at a place, locks and syncs them."""

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import IO, Any

from edge_s2a.system import IS_LINUX, IS_WINDOWS

BINARY = getattr(os, "O_BINARY", 0)  # for os.open: Windows has text files
# A file system that has no locks, or cannot sync a folder, says so in one of these ways.
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_place = threading.Lock()  # where reading at a place takes two calls


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """At most `size` bytes of a file, from a place on. Raises OSError."""
    if IS_LINUX:
        return os.pread(descriptor, size, offset)
    with _place:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def fill_from(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fills a buffer of bytes from a place on, as far as the file goes; returns how far. Raises OSError."""
    if IS_LINUX:
        return os.preadv(descriptor, [buffer], offset)
    content = read_at(descriptor, len(buffer), offset)
    buffer[: len(content)] = content
    return len(content)


def write_at(descriptor: int, content: bytes, offset: int) -> int:
    """Writes into a file from a place on; returns how many bytes it took. Raises OSError."""
    if IS_LINUX:
        return os.pwrite(descriptor, content, offset)
    with _place:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, content)


def lock(file: IO[Any]) -> None:
    """Holds a file for this process alone, until it is closed. Where its file system has no locks, it is not held.
    Raises OSError if another process holds it."""
    if IS_WINDOWS:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def sync_folder(folder: Path) -> None:
    """Makes a rename inside a folder survive a power failure, where the file system can. Raises OSError."""
    if IS_WINDOWS:
        return  # has no such call
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def make_readable(path: Path | str) -> None:
    """Lets all users read a file, where its file system has rights."""
    with contextlib.suppress(PermissionError):
        os.chmod(path, 0o644)
