"""Writing files so that a failure at any moment leaves the old file or the new one, never a part."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_s2a.errors import UserError
from edge_s2a.system.files import replace, sync_folder
from edge_s2a.system.locks import try_to_lock

# One user and one process are the usual case: to refuse to work there would protect nobody.
NO_LOCK = "the file system of {} has no locks: see to it that no other process writes there at the same time"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns any OSError inside the block into a UserError about writing `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space or choose another place") from error


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Yields a binary file that takes the place of `path` when the block ends without an error.

    Raises UserError when the folder cannot be written or the disk is full; nothing is left behind then.
    """
    temporary = None
    try:
        with writing(path):
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # of file systems without such rights
                os.chmod(temporary, 0o644)
            replace(temporary, path)
            temporary = None
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_writer(path) as file:
        file.write(data)


def read_bytes(path: Path, what: str) -> bytes:
    """The content of `path`; UserError naming `what` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}; check the path") from error


def make_folder(path: Path) -> None:
    """Creates `path` with its parents, and proves that it can be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"cannot write to folder {path}: {error.strerror}; choose another --output") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[str | None]:
    """Holds the file `path` as a lock for the time of the block. It goes with the process, however that ends. Yields
    None, or, where the file system has no locks, a sentence that says so. Raises UserError if another process holds
    it."""
    with writing(path):
        file = open(path, "ab")
    with file:
        with writing(path):
            is_held = try_to_lock(file)
        if is_held is False:
            raise UserError(f"another process is training into {path.parent}; wait for it, or choose another --output")
        yield None if is_held else NO_LOCK.format(path.parent)
