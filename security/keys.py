"""Private and public keys: made, saved and loaded; never printed.

Keys are the types of `cryptography`, whose repr shows no content. Private keys are
PKCS#8 PEM in files of mode 0600 that are created exclusively and read by the rules
of `security.files.read_private`; a passphrase adds encryption (`security.pkcs8`).
Public keys are SubjectPublicKeyInfo PEM.

What it refuses: any other algorithm or curve than those named here, a key of another
algorithm than the one asked for, a key over an existing file, a short passphrase.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeAlias, overload

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA44PublicKey,
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from security import pkcs8
from security.errors import KeyFileError
from security.files import MAX_KEY_FILE_BYTES, create_exclusive, read_bounded, read_private

# NIST SP 800-63B-4 asks for 15 where the passphrase stands alone, as here.
MIN_PASSPHRASE_BYTES = 15
MAX_PASSPHRASE_BYTES = 1024

PrivateKey: TypeAlias = (
    EllipticCurvePrivateKey | Ed25519PrivateKey | MLDSA44PrivateKey | MLDSA65PrivateKey
)
PublicKey: TypeAlias = (
    EllipticCurvePublicKey | Ed25519PublicKey | MLDSA44PublicKey | MLDSA65PublicKey
)


class Algorithm(StrEnum):
    """The signature algorithms in use, by name."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    ED25519 = "ed25519"
    MLDSA44 = "ml-dsa-44"
    MLDSA65 = "ml-dsa-65"


_Ecdsa: TypeAlias = Literal[Algorithm.ECDSA_P256, Algorithm.ECDSA_P384]


@overload
def generate(algorithm: _Ecdsa) -> EllipticCurvePrivateKey: ...
@overload
def generate(algorithm: Literal[Algorithm.ED25519]) -> Ed25519PrivateKey: ...
@overload
def generate(algorithm: Literal[Algorithm.MLDSA44]) -> MLDSA44PrivateKey: ...
@overload
def generate(algorithm: Literal[Algorithm.MLDSA65]) -> MLDSA65PrivateKey: ...
@overload
def generate(algorithm: Algorithm) -> PrivateKey: ...
def generate(algorithm: Algorithm) -> PrivateKey:
    """Make a new private key from the operating system's random source."""
    match algorithm:
        case Algorithm.ECDSA_P256:
            return generate_ec_key(SECP256R1())
        case Algorithm.ECDSA_P384:
            return generate_ec_key(SECP384R1())
        case Algorithm.ED25519:
            return Ed25519PrivateKey.generate()
        case Algorithm.MLDSA44:
            return MLDSA44PrivateKey.generate()
        case Algorithm.MLDSA65:
            return MLDSA65PrivateKey.generate()


def algorithm_of(key: object) -> Algorithm | None:
    """Name the algorithm of a private or public key; None for one we do not use."""
    match key:
        case EllipticCurvePrivateKey(curve=curve) | EllipticCurvePublicKey(curve=curve):
            curves = {"secp256r1": Algorithm.ECDSA_P256, "secp384r1": Algorithm.ECDSA_P384}
            return curves.get(curve.name)
        case Ed25519PrivateKey() | Ed25519PublicKey():
            return Algorithm.ED25519
        case MLDSA44PrivateKey() | MLDSA44PublicKey():
            return Algorithm.MLDSA44
        case MLDSA65PrivateKey() | MLDSA65PublicKey():
            return Algorithm.MLDSA65
    return None


def save_private_key(path: Path, key: PrivateKey, passphrase: bytes | None = None) -> None:
    """Write a private key to a new file of mode 0600, encrypted if a passphrase is given.

    Raises:
        KeyFileError: the file exists (a key is never overwritten), or the passphrase
            is shorter than 15 bytes or longer than 1,024.
        OSError: the disk refused.
    """
    if passphrase is None:
        data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    else:
        check_passphrase(passphrase)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        data = pkcs8.encrypt(der, passphrase)
    try:
        create_exclusive(path, data)
    except FileExistsError as error:
        raise KeyFileError(f"{path} exists already; a key is never overwritten") from error


@overload
def load_private_key(
    path: Path, algorithm: _Ecdsa, passphrase: bytes | None = None
) -> EllipticCurvePrivateKey: ...
@overload
def load_private_key(
    path: Path, algorithm: Literal[Algorithm.ED25519], passphrase: bytes | None = None
) -> Ed25519PrivateKey: ...
@overload
def load_private_key(
    path: Path, algorithm: Literal[Algorithm.MLDSA44], passphrase: bytes | None = None
) -> MLDSA44PrivateKey: ...
@overload
def load_private_key(
    path: Path, algorithm: Literal[Algorithm.MLDSA65], passphrase: bytes | None = None
) -> MLDSA65PrivateKey: ...
@overload
def load_private_key(
    path: Path, algorithm: Algorithm, passphrase: bytes | None = None
) -> PrivateKey: ...
def load_private_key(
    path: Path, algorithm: Algorithm, passphrase: bytes | None = None
) -> PrivateKey:
    """Read a private key of `algorithm` from a file that only we may read.

    Raises:
        KeyFileError: the file is refused (see `read_private`), is no key, is a key of
            another algorithm, is encrypted and no passphrase is given, or the
            passphrase is wrong.
    """
    data = read_private(path)
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data
    if encrypted and passphrase is None:
        raise KeyFileError(f"{path} is encrypted: give --passphrase-file")
    try:
        key = load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause is dropped: a parser's message may quote what it read.
        hint = "the passphrase is wrong, or it is damaged" if encrypted else "no PKCS#8 PEM key"
        raise KeyFileError(f"{path} cannot be read as a private key: {hint}") from None
    if not isinstance(key, PrivateKey) or algorithm_of(key) is not algorithm:
        raise _wrong_algorithm(path, key, algorithm)
    return key


def public_pem(key: PrivateKey | PublicKey) -> bytes:
    """Return the public key, or that of a private key, as SubjectPublicKeyInfo PEM."""
    match key:
        case (
            EllipticCurvePrivateKey()
            | Ed25519PrivateKey()
            | MLDSA44PrivateKey()
            | MLDSA65PrivateKey()
        ):
            public: PublicKey = key.public_key()
        case _:
            public = key
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@overload
def load_public_key(path: Path, algorithm: _Ecdsa) -> EllipticCurvePublicKey: ...
@overload
def load_public_key(path: Path, algorithm: Literal[Algorithm.ED25519]) -> Ed25519PublicKey: ...
@overload
def load_public_key(path: Path, algorithm: Literal[Algorithm.MLDSA44]) -> MLDSA44PublicKey: ...
@overload
def load_public_key(path: Path, algorithm: Literal[Algorithm.MLDSA65]) -> MLDSA65PublicKey: ...
@overload
def load_public_key(path: Path, algorithm: Algorithm) -> PublicKey: ...
def load_public_key(path: Path, algorithm: Algorithm) -> PublicKey:
    """Read a public key of `algorithm` from a SubjectPublicKeyInfo PEM file.

    Raises:
        SecurityError: the file cannot be read.
        KeyFileError: it is no public key, or one of another algorithm.
    """
    data = read_bounded(path, MAX_KEY_FILE_BYTES)
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} cannot be read as a public key in PEM") from None
    if not isinstance(key, PublicKey) or algorithm_of(key) is not algorithm:
        raise _wrong_algorithm(path, key, algorithm)
    return key


def read_passphrase(path: Path) -> bytes:
    """Read a passphrase: the file's content less one line end; the rules are a key's.

    Raises:
        KeyFileError: the file is refused, or the passphrase is too short or too long.
    """
    data = read_private(path, MAX_PASSPHRASE_BYTES + 2)
    passphrase = data.removesuffix(b"\n").removesuffix(b"\r")
    check_passphrase(passphrase)
    return passphrase


def check_passphrase(passphrase: bytes) -> None:
    """Refuse a passphrase that is too short to protect an offline key, or absurdly long.

    Raises:
        KeyFileError: it has fewer than 15 bytes or more than 1,024.
    """
    if not MIN_PASSPHRASE_BYTES <= len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise KeyFileError(
            f"a passphrase has {MIN_PASSPHRASE_BYTES} to {MAX_PASSPHRASE_BYTES} bytes, "
            f"this one has {len(passphrase)}"
        )


def _wrong_algorithm(path: Path, key: object, algorithm: Algorithm) -> KeyFileError:
    found = algorithm_of(key) or "another algorithm"
    return KeyFileError(f"{path} holds no {algorithm} key ({found})")
