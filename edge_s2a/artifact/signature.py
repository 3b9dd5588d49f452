"""Ed25519 signatures (RFC 8032) over an artifact's manifest, which holds the digests of all other members.

Keys are PEM files, as `openssl genpkey -algorithm ed25519` writes them. The package `cryptography` is needed only to
sign or to ask for a signature.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_s2a.artifact.files import read_bytes
from edge_s2a.errors import CheckError, UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64


def load_private_key(path: Path) -> "Ed25519PrivateKey":
    """Raises UserError for anything but an Ed25519 private key without a passphrase."""
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(read_bytes(path, "key"), password=None)
    except (ValueError, TypeError) as error:
        raise _wrong_key(path, "private key without passphrase", error) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _wrong_key(path, "private key", type(key).__name__)
    return key


def load_public_key(path: Path) -> "Ed25519PublicKey":
    """Raises UserError for anything but an Ed25519 public key."""
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_public_key(read_bytes(path, "key"))
    except (ValueError, TypeError) as error:
        raise _wrong_key(path, "public key", error) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise _wrong_key(path, "public key", type(key).__name__)
    return key


def verify_signature(signed: bytes, signature: bytes | None, key: Path, where: str) -> None:
    """Raises CheckError unless `signature` is that of the bytes `signed` under the public key in the file `key`."""
    from_owner = load_public_key(key)
    if signature is None:
        raise CheckError(f"{where} is not signed; repack the model with --sign, or get a signed copy")
    from cryptography.exceptions import InvalidSignature

    try:
        from_owner.verify(signature, signed)
    except InvalidSignature as error:
        raise CheckError(
            f"{where} is not signed by the owner of {key}, or was changed afterwards; do not use it"
        ) from error


def _wrong_key(path: Path, kind: str, reason: object) -> UserError:
    return UserError(
        f"{path} is not a PEM file of an Ed25519 {kind} ({reason}); make a pair with: "
        "openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out public.pem"
    )


def _cryptography() -> tuple[Any, Any]:
    """The modules (serialization, ed25519), which are needed only where something is signed or verified."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise UserError(
            f"signatures need the package cryptography ({error}); install it with: pip install 'edge-s2a[signing]'"
        ) from error
    return serialization, ed25519
