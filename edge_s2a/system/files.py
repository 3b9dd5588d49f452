"""Reading and writing at an offset, and files whose names change while they are open.

Windows neither replaces nor removes a file that is open, unless whoever opened it allowed that.
"""

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_s2a.system.which import IS_FORCED

# What file systems without a way to sync a folder answer.
NO_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP}
LONGEST_WAIT_S, POLL_S = 2.0, 0.05

# -- at an offset --------------------------------------------------------------------------------------

if sys.platform != "win32" and not IS_FORCED:

    def read_at(descriptor: int, size: int, offset: int) -> bytes:
        """At most `size` bytes from `offset` of an open file. Raises OSError."""
        return os.pread(descriptor, size, offset)

    def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
        """Fills `buffer` from `offset` of an open file; returns how many bytes there were. Raises OSError."""
        return os.preadv(descriptor, [buffer], offset)

    def write_at(descriptor: int, data: bytes, offset: int) -> int:
        """Writes at `offset` of an open file; returns how many bytes were taken. Raises OSError."""
        return os.pwrite(descriptor, data, offset)

else:
    # A file has one position: what moves it must be alone, and put it back for those who read in order.
    _position = threading.Lock()

    @contextlib.contextmanager
    def _at(descriptor: int, offset: int) -> Iterator[None]:
        with _position:
            before = os.lseek(descriptor, 0, os.SEEK_CUR)
            os.lseek(descriptor, offset, os.SEEK_SET)
            try:
                yield
            finally:
                os.lseek(descriptor, before, os.SEEK_SET)

    def read_at(descriptor: int, size: int, offset: int) -> bytes:
        with _at(descriptor, offset):
            return os.read(descriptor, size)

    def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
        with _at(descriptor, offset), open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readinto(buffer) or 0

    def write_at(descriptor: int, data: bytes, offset: int) -> int:
        with _at(descriptor, offset):
            return os.write(descriptor, data)


# -- names ---------------------------------------------------------------------------------------------


def open_shared(path: Path, writes: bool = False) -> BinaryIO:
    """Opens a file whose name may go to another one, or away, while it is open; one that is to be written is created
    where there is none. Raises OSError."""
    if sys.platform == "win32":
        import _winapi
        import msvcrt

        access = _winapi.GENERIC_READ | (_winapi.GENERIC_WRITE if writes else 0)
        shared, open_always, open_existing, normal = 7, 4, _winapi.OPEN_EXISTING, 0x80
        handle = _winapi.CreateFile(
            str(path), access, shared, _winapi.NULL, open_always if writes else open_existing, normal, _winapi.NULL
        )
        descriptor = msvcrt.open_osfhandle(handle, os.O_RDWR if writes else os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY, 0o644)
    return open(descriptor, "r+b" if writes else "rb", buffering=0)


def replace(source: Path | str, target: Path) -> None:
    """Gives `source` the name `target`, at once, so that one of the two files always has it. Raises OSError.

    On Windows, where `target` is open, it first gets a name of its own: a power failure between the two leaves that.
    Whoever looks at it for a moment, such as a virus scanner, is waited for.
    """
    if sys.platform != "win32":
        os.replace(source, target)
        return
    end_s = time.monotonic() + LONGEST_WAIT_S
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if time.monotonic() > end_s:
                raise
        with contextlib.suppress(OSError):
            os.replace(target, aside)
            os.replace(source, target)
            with contextlib.suppress(OSError):
                os.unlink(aside)
            return
        time.sleep(POLL_S)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power failure, where the system can be asked to. Raises OSError."""
    if sys.platform == "win32":
        return  # folders cannot be opened there; NTFS keeps a journal of renames
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)
