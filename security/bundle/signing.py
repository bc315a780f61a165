"""Signing a bundle: `model.sig` and `model.sig.mldsa65`, made and put in place together.

What it refuses: to sign what opening would refuse. The files are read into sealed
memory, judged by the same rules, and the new signatures are verified against the
signer's own public keys (which also catches a faulty signature) before anything is
written.

The step list, with what a crash after each leaves behind:

1. read, judge, sign, verify                        the bundle as it was
2. write both under temporary names, flushed        as it was, and strays that make it
                                                    refused until it is signed again
3. rename the sidecar, then model.sig               a pair that does not match: refused
4. flush the directory                              the new signatures

There is no moment at which a half-signed bundle opens.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from security.bundle.attestations import privacy_claim
from security.bundle.content import PROBES_NAME, Step, examine
from security.bundle.opening import DEFAULT_LIMITS, seal_files, verify_signatures
from security.bundle.tree import OpenLimits, list_tree, opened_root
from security.signing import dsse, mldsa, oms
from security.signing.names import SIDECAR_NAME, SIGNATURE_NAME, SIGNATURE_NAMES
from security.signing.signers import SigningKeys, Trust

_SIGNATURE_MODE: Final = 0o644
# Fixed names, so that signing again removes what a crash left.
_TEMPORARY: Final = {name: f".{name}.new" for name in (SIDECAR_NAME, SIGNATURE_NAME)}


@dataclass(frozen=True, slots=True)
class SignedBundle:
    """What was signed: the bundle's identity, who signed, and how much.

    `has_probes` tells whether an appliance can probe it, and so install it.
    """

    name: str
    version: str
    digest: str
    signer: str
    file_count: int
    size_bytes: int
    has_probes: bool


def sign_bundle(
    path: Path,
    keys: SigningKeys,
    *,
    now: datetime | None = None,
    limits: OpenLimits = DEFAULT_LIMITS,
) -> SignedBundle:
    """Sign the bundle at `path`, replacing the signatures it has.

    Args:
        path: the bundle's directory.
        keys: the signer's name and both private keys.
        now: the time to judge expiry by; the clock's by default.
        limits: those of whoever will open it.

    Raises:
        BundleError: opening would refuse it, or its privacy claim could not be relied on
            (`AttestationError`); nothing is changed.
        OSError: the signatures cannot be written.
    """
    with opened_root(path) as root_fd, ExitStack() as closing:
        remove_strays(root_fd)
        names = list_tree(root_fd, limits, None) - SIGNATURE_NAMES
        files = seal_files(root_fd, dict.fromkeys(names), limits, closing)
        examined = examine(files, now=now or datetime.now(UTC), minimum_epoch=0, on_step=_ignore)
        manifest = examined.manifest
        # Opening does not look at statements; nobody should sign a false one unawares.
        privacy_claim(files, manifest)
        digests = {name: file.sha256 for name, file in files.items()}
        signatures = sign_files(f"{manifest.name}-{manifest.version}", digests, keys)
        statement, signer = verify_signatures(signatures, Trust.of(keys.public()), limits)
        replace_signatures(root_fd, signatures)
        return SignedBundle(
            manifest.name,
            manifest.version,
            statement.digest,
            signer.name,
            len(files),
            sum(file.size_bytes for file in files.values()),
            PROBES_NAME in files,
        )


def sign_files(subject: str, digests: dict[str, str], keys: SigningKeys) -> dict[str, bytes]:
    """Return both signature files' content over the given files (name to SHA-256 hex)."""
    payload = oms.encode_statement(subject, digests)
    signature = oms.Signature(keys.public().hint, payload, dsse.sign(keys.ecdsa, payload))
    return {
        SIGNATURE_NAME: oms.encode_signature(signature),
        SIDECAR_NAME: mldsa.sign(keys.mldsa65, payload),
    }


def _ignore(_: Step) -> None:
    """Signing reports no steps."""


def remove_strays(root_fd: int) -> None:
    """Remove what signing that was cut short has left behind."""
    for temporary in _TEMPORARY.values():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=root_fd)


def replace_signatures(root_fd: int, signatures: dict[str, bytes]) -> None:
    """Write both signature files and put them in place (steps 2 to 4).

    Raises:
        OSError: they cannot be written.
    """
    try:
        for name, temporary in _TEMPORARY.items():
            _write(root_fd, temporary, signatures[name])
        for name, temporary in _TEMPORARY.items():
            os.rename(temporary, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
    except OSError:
        remove_strays(root_fd)
        raise
    os.fsync(root_fd)


def _write(root_fd: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, _SIGNATURE_MODE, dir_fd=root_fd)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(fd, _SIGNATURE_MODE)
        os.fsync(fd)
