"""The container: a ZIP whose members are stored uncompressed, each aligned to a page.

Any ZIP tool opens it, and the device maps members in place.
"""

import hashlib
import mmap
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_s2a.artifact.files import atomic_writer
from edge_s2a.artifact.manifest import Manifest, parse_manifest
from edge_s2a.artifact.signature import SIGNATURE_BYTES, verify_signature
from edge_s2a.errors import CheckError, UserError
from edge_s2a.system import files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MANIFEST = "manifest.json"
PROGRAM = "program.json"
WEIGHTS = "weights.safetensors"
CONSTANTS = "constants.safetensors"
ADAPTER = "adapter.safetensors"
GOLDEN = "golden.safetensors"
PLAN = "plan.json"
SIGNATURE = "signature.ed25519"  # of the manifest's bytes; optional
MEMBERS = (PROGRAM, CONSTANTS, WEIGHTS, ADAPTER, GOLDEN, PLAN)  # beside the graphs

ALIGNMENT = 4096
PADDING_FIELD = 0xD935  # an extra field that readers skip, as Android's tools use for alignment
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
EPOCH = (1980, 1, 1, 0, 0, 0)  # no clock in the file: the same input gives the same bytes
MAX_MANIFEST_BYTES = 16 << 20
# Python's zipfile adds a ZIP64 field to larger members, which would move their data off the page.
MAX_MEMBER_BYTES = int(zipfile.ZIP64_LIMIT / 1.05)


def graph_member(number: int) -> str:
    """The member that holds graph `number` of the program."""
    return f"graphs/{number:03d}.onnx"


def digests(members: dict[str, bytes]) -> dict[str, dict]:
    """The manifest's `members` entry."""
    return {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()}


def write_archive(
    path: Path, manifest: Manifest, members: dict[str, bytes], key: "Ed25519PrivateKey | None" = None
) -> None:
    """Writes the artifact at `path`, all of it or nothing, signed with `key` if one is given. Raises UserError for a
    member of over 1.9 GiB."""
    for name, data in members.items():
        if len(data) > MAX_MEMBER_BYTES:
            raise UserError(
                f"{name} takes {len(data)} bytes, more than a .s2a member can; pack with --weight-format int8"
            )
    text = manifest.to_json()
    signature = {SIGNATURE: key.sign(text)} if key else {}
    with atomic_writer(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: text, **members, **signature}.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            start = file.tell() + LOCAL_HEADER.size + len(name.encode())
            padding = -(start + 4) % ALIGNMENT
            entry.extra = struct.pack("<2H", PADDING_FIELD, padding) + bytes(padding)
            archive.writestr(entry, data)


class Artifact:
    """An open artifact. Members are read or mapped on demand; their digests are checked then."""

    def __init__(self, path: Path):
        """Reads the table of contents and the manifest. Raises UserError if they are not well formed."""
        self.path = path
        try:
            self.file_bytes = path.stat().st_size
            self._file = open(path, "rb")
            with zipfile.ZipFile(self._file) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
                if len(entries) != len(archive.infolist()) or MANIFEST not in entries:
                    raise ValueError(f"members {sorted(entries)}")
                if entries[MANIFEST].file_size > MAX_MANIFEST_BYTES:
                    raise ValueError("manifest too large")
                self._extents = {name: self._extent(entry) for name, entry in entries.items()}
                self._require_apart()
                self._manifest_text = archive.read(MANIFEST)
                self.signature = self._read_signature(archive) if SIGNATURE in entries else None
        except OSError as error:
            raise UserError(f"cannot read artifact {path}: {error.strerror or error}; check the path") from error
        except (zipfile.BadZipFile, ValueError, RuntimeError, struct.error, EOFError) as error:
            raise UserError(f"{path} is not a complete .s2a artifact ({error}); copy or repack it") from error
        # Before the members, for another format version has others.
        self.manifest = parse_manifest(self._manifest_text, str(path))
        entries.pop(SIGNATURE, None)
        self.graph_count = len(entries) - len(MEMBERS) - 1
        graphs = {graph_member(number) for number in range(self.graph_count)}
        if set(entries) != {MANIFEST, *MEMBERS, *graphs}:
            raise UserError(f"{path} is not a complete .s2a artifact (members {sorted(entries)}); copy or repack it")
        if set(self.manifest.members) != set(entries) - {MANIFEST}:
            raise UserError(f"{path}: manifest and members disagree; copy or repack it")

    @staticmethod
    def _read_signature(archive: zipfile.ZipFile) -> bytes:
        if archive.getinfo(SIGNATURE).file_size != SIGNATURE_BYTES:
            raise ValueError(f"{SIGNATURE} does not have {SIGNATURE_BYTES} bytes")
        return archive.read(SIGNATURE)

    def require_signature(self, public_key: Path) -> None:
        """Raises CheckError unless the manifest, and with it the digests of all members, is signed by the owner of the
        key."""
        verify_signature(self._manifest_text, self.signature, public_key, str(self.path))

    def _extent(self, entry: zipfile.ZipInfo) -> tuple[int, int]:
        """(offset, bytes) of a member's data."""
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{entry.filename} is compressed")
        self._file.seek(entry.header_offset)
        header = LOCAL_HEADER.unpack(self._file.read(LOCAL_HEADER.size))
        offset = entry.header_offset + LOCAL_HEADER.size + header[-2] + header[-1]
        if header[0] != b"PK\x03\x04" or offset % ALIGNMENT or offset + entry.file_size > self.file_bytes:
            raise ValueError(f"{entry.filename} is misplaced")
        return offset, entry.file_size

    def _require_apart(self) -> None:
        end = 0
        for offset, size in sorted(self._extents.values()):
            if offset < end:
                raise ValueError("members overlap")
            end = offset + size

    def verify(self, name: str) -> None:
        """Raises CheckError unless the member has the bytes that the manifest promises.

        Reads through a small buffer: a mapped page would stay in the process's resident memory.
        """
        offset, size = self._extents[name]
        digest = hashlib.sha256()
        self._file.seek(offset)
        remaining = size
        while remaining:
            chunk = self._file.read(min(remaining, 1 << 20))
            if not chunk:
                break
            digest.update(chunk)
            remaining -= len(chunk)
        promised = self.manifest.members[name]
        if digest.hexdigest() != promised["sha256"] or size != promised["bytes"]:
            raise CheckError(f"{self.path}: checksum of {name} is wrong; the file is damaged, copy or repack it")

    def read(self, name: str) -> bytes:
        """The member's verified bytes."""
        self.verify(name)
        offset, size = self._extents[name]
        self._file.seek(offset)
        return self._file.read(size)

    def map(self, name: str) -> np.ndarray:
        """The member's verified bytes, uint8 (bytes,), mapped read-only from the file in place."""
        self.verify(name)
        offset, size = self._extents[name]
        # A mapping begins where a page does, and pages are of up to 64 KiB: on some Arm boards, macOS and Windows.
        before = offset % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._file.fileno(), before + size, access=mmap.ACCESS_READ, offset=offset - before)
        return np.frombuffer(mapped, np.uint8, size, before)

    def read_into(self, name: str, offset: int, out: np.ndarray) -> None:
        """Fills `out`, contiguous, with the member's bytes from `offset` on, which are not verified again. Raises
        UserError if they cannot be read."""
        start, _ = self._extents[name]
        try:
            count = files.read_into(self._file.fileno(), out.reshape(-1).view(np.uint8).data, start + offset)
        except OSError as error:
            raise UserError(f"cannot read {name} of {self.path}: {error.strerror or error}") from error
        if count != out.nbytes:
            raise UserError(f"{self.path} has become shorter while it was in use; copy or repack it")

    def member_bytes(self, name: str) -> int:
        return self._extents[name][1]
