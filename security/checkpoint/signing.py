"""Signing a checkpoint: the same two signatures as a bundle has, over all its files.

What it refuses: to sign what verification would refuse. The new signatures are verified
against the signer's own public keys before anything is written; the crash safety is that
of `security.bundle.signing`, whose steps 2 to 4 it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from security.bundle.opening import DEFAULT_LIMITS, verify_signatures
from security.bundle.signing import remove_strays, replace_signatures, sign_files
from security.bundle.tree import OpenLimits, list_tree, opened_root
from security.checkpoint.verifying import examine, read_files
from security.signing.names import SIGNATURE_NAMES
from security.signing.oms import MAX_SUBJECT_CHARS
from security.signing.signers import SigningKeys, Trust


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """What was signed, by whom, and how much."""

    name: str
    digest: str
    signer: str
    file_count: int
    size_bytes: int


def sign_checkpoint(
    path: Path, keys: SigningKeys, *, limits: OpenLimits = DEFAULT_LIMITS
) -> SignedCheckpoint:
    """Sign the checkpoint at `path`, replacing the signatures it has.

    Raises:
        BundleError: verification would refuse it; nothing is changed.
        OSError: the signatures cannot be written.
    """
    with opened_root(path) as root_fd:
        remove_strays(root_fd)
        names = list_tree(root_fd, limits, None) - SIGNATURE_NAMES
        files = read_files(root_fd, names, limits)
        name = examine(files)
        subject = f"checkpoint-{name}"[:MAX_SUBJECT_CHARS]
        signatures = sign_files(subject, dict(files.digests), keys)
        statement, signer = verify_signatures(signatures, Trust.of(keys.public()), limits)
        replace_signatures(root_fd, signatures)
    return SignedCheckpoint(
        name, statement.digest, signer.name, len(files.digests), files.size_bytes
    )
