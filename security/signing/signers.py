"""Who may sign bundles, and the keys to sign with.

A signer is a name with two public keys, `<name>.ecdsa.pem` and `<name>.mldsa65.pem`;
the signing folder holds the private halves, `<name>.ecdsa.key` and
`<name>.mldsa65.key`. A bundle counts as signed only when one signer made both
signatures, so half a pair is refused at loading rather than found out later.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from security.errors import KeyFileError, UsageError
from security.keys import Algorithm, load_private_key, load_public_key, public_pem

DEFAULT_SIGNER: Final = "release"
MAX_SIGNERS: Final = 64
SIGNER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

ECDSA_PUBLIC: Final = ".ecdsa.pem"
MLDSA_PUBLIC: Final = ".mldsa65.pem"
ECDSA_PRIVATE: Final = ".ecdsa.key"
MLDSA_PRIVATE: Final = ".mldsa65.key"


@dataclass(frozen=True, slots=True)
class SignerKeys:
    """A trusted signer's two public keys."""

    name: str
    ecdsa: EllipticCurvePublicKey
    mldsa65: MLDSA65PublicKey

    @property
    def hint(self) -> str:
        """How `model.sig` names the key: SHA-256 (hex) of its public PEM, as OMS tools do."""
        return hashlib.sha256(public_pem(self.ecdsa)).hexdigest()


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """A signer's two private keys; the repr of either shows no content."""

    name: str
    ecdsa: EllipticCurvePrivateKey
    mldsa65: MLDSA65PrivateKey

    @classmethod
    def load(
        cls, folder: Path, name: str = DEFAULT_SIGNER, passphrase: bytes | None = None
    ) -> SigningKeys:
        """Read `<name>.ecdsa.key` and `<name>.mldsa65.key` from the signing folder.

        Raises:
            KeyFileError: a file is missing, readable by others, or no such key.
            UsageError: the name cannot be a signer's.
        """
        check_signer_name(name)
        return cls(
            name,
            load_private_key(folder / f"{name}{ECDSA_PRIVATE}", Algorithm.ECDSA_P256, passphrase),
            load_private_key(folder / f"{name}{MLDSA_PRIVATE}", Algorithm.MLDSA65, passphrase),
        )

    def public(self) -> SignerKeys:
        """Return the public halves."""
        return SignerKeys(self.name, self.ecdsa.public_key(), self.mldsa65.public_key())


@dataclass(frozen=True, slots=True)
class Trust:
    """The signers that are trusted, by name."""

    signers: Mapping[str, SignerKeys]

    @classmethod
    def of(cls, *signers: SignerKeys) -> Trust:
        """Trust exactly these signers.

        Raises:
            KeyFileError: two of them share a name or an ECDSA key.
        """
        by_name = {signer.name: signer for signer in signers}
        if len(by_name) != len(signers):
            raise KeyFileError("two signers have the same name")
        if len({signer.hint for signer in signers}) != len(signers):
            raise KeyFileError("two signers have the same ECDSA key; each needs its own")
        return cls(MappingProxyType(by_name))

    @classmethod
    def load(cls, folder: Path) -> Trust:
        """Read every pair `<name>.ecdsa.pem`, `<name>.mldsa65.pem` in `folder`.

        Raises:
            KeyFileError: there is none, half a pair, an unknown `*.pem` file, too many,
                or a file that others could replace.
        """
        names = _signer_names(folder)
        for name in names:
            for suffix in (ECDSA_PUBLIC, MLDSA_PUBLIC):
                _check_trust_file(folder / f"{name}{suffix}")
        return cls.of(*(_load_signer(folder, name) for name in names))

    def find(self, hint: str) -> SignerKeys | None:
        """Return the signer whose ECDSA key `model.sig` claims to be signed with."""
        for signer in self.signers.values():
            if hmac.compare_digest(signer.hint.encode(), hint.encode()):
                return signer
        return None


def check_signer_name(name: str) -> None:
    """Refuse a name that is no plain file name.

    Raises:
        UsageError: it is not of the form [a-z0-9][a-z0-9-]{0,62}.
    """
    if SIGNER_NAME.fullmatch(name) is None:
        raise UsageError("a signer's name has 1 to 63 lower-case letters, digits or '-'")


def _signer_names(folder: Path) -> list[str]:
    try:
        files = sorted(path.name for path in folder.iterdir() if path.suffix == ".pem")
    except OSError as error:
        raise KeyFileError(f"cannot read the folder of signers {folder}: {error.strerror}") from (
            error
        )
    names = {file.removesuffix(ECDSA_PUBLIC).removesuffix(MLDSA_PUBLIC) for file in files}
    if not names:
        raise KeyFileError(f"{folder} holds no signer (<name>.ecdsa.pem and <name>.mldsa65.pem)")
    if len(names) > MAX_SIGNERS:
        raise KeyFileError(f"{folder} holds more than {MAX_SIGNERS} signers")
    for name in names:
        if SIGNER_NAME.fullmatch(name) is None:
            raise KeyFileError(f"{folder}: {name!a} is no signer's key; move it elsewhere")
    return sorted(names)


def _check_trust_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(
            f"a signer needs both keys, and {path} cannot be read: {error.strerror}"
        ) from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyFileError(f"{path} could be replaced by others: chmod go-w {path}")


def _load_signer(folder: Path, name: str) -> SignerKeys:
    return SignerKeys(
        name,
        load_public_key(folder / f"{name}{ECDSA_PUBLIC}", Algorithm.ECDSA_P256),
        load_public_key(folder / f"{name}{MLDSA_PUBLIC}", Algorithm.MLDSA65),
    )
