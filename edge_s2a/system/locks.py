"""Locks on files, which go with the process that holds them, however it ends."""

import errno
import sys
from typing import BinaryIO

# What file systems without locks answer: some network mounts, FUSE, and kernels built without them.
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
LOCKED_BYTE = 1 << 30  # beyond the content: Windows lets nobody else read a byte that is locked


def try_to_lock(file: BinaryIO) -> bool | None:
    """Whether this process now holds the lock of an open file; False: another one does; None: the file system has no
    locks. Raises OSError where it cannot be told."""
    try:
        if sys.platform == "win32":
            import msvcrt

            position = file.tell()
            file.seek(LOCKED_BYTE)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            finally:
                file.seek(position)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno in NO_LOCKS:
            return None
        raise
    return True
