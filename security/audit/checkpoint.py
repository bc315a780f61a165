"""C2SP tlog-checkpoint: the signed head of a log, and what makes one acceptable.

The rule for acceptance, given a set of trusted verifier keys:

1. The note is well-formed: origin, size, root hash, no extension lines (the
   ML-DSA-44 signature would not cover them).
2. Every signature by a trusted key verifies. One that does not spoils the note.
3. For *each* algorithm among the trusted keys named like the origin, at least one
   such key has signed. So with an Ed25519 and an ML-DSA-44 key trusted, both must
   have signed, and breaking one algorithm alone forges nothing.
4. Signatures by unknown keys count for nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from security.audit.merkle import HASH_BYTES
from security.audit.note import (
    ALGORITHM_NAMES,
    MLDSA44,
    Note,
    NoteSignature,
    VerifierKey,
    check_key_name,
    decode_base64,
    parse_note,
)
from security.errors import AuditError

SIZE_MAX = 2**63 - 1
_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)
_LABEL = b"subtree/v1\n\x00"
_TIMESTAMP_BYTES = 8
_TIMESTAMP_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: its origin, how many entries it has, and their root hash."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the note text: three lines, each ended by a newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint whose signatures were checked.

    Attributes:
        checkpoint: the head that was signed.
        signed_by: the trusted keys that signed it.
        signed_at: Unix seconds, as the ML-DSA-44 signature states; None without one.
        note: the bytes it was read from.
    """

    checkpoint: Checkpoint
    signed_by: tuple[VerifierKey, ...]
    signed_at: int | None
    note: bytes


def parse_size(text: str) -> int:
    """Return a decimal number without leading zeroes, below 2^63.

    Raises:
        AuditError: it is not one.
    """
    if not _SIZE.match(text) or int(text) > SIZE_MAX:
        raise AuditError("a number of the log is not a decimal below 2^63 without leading zeroes")
    return int(text)


def parse_checkpoint_text(text: str) -> Checkpoint:
    """Parse the text of a note as a checkpoint without extension lines.

    Raises:
        AuditError: it is not one.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise AuditError("a checkpoint has three lines: origin, size and root hash")
    check_key_name(lines[0])
    size = parse_size(lines[1])
    root = decode_base64(lines[2], "the checkpoint's root hash")
    if len(root) != HASH_BYTES:
        raise AuditError(f"the checkpoint's root hash does not have {HASH_BYTES} bytes")
    return Checkpoint(lines[0], size, root)


def cosigned_message(name: str, timestamp: int, checkpoint: Checkpoint) -> bytes:
    """Return what an ML-DSA-44 key signs: `cosigned_message` of C2SP tlog-cosignature.

    label "subtree/v1\\n\\0", name and origin each behind a one-byte length, and the
    timestamp, 0, the size (each a big-endian uint64) and the root hash.
    """
    signer, origin = name.encode(), checkpoint.origin.encode()
    return b"".join(
        (
            _LABEL,
            bytes([len(signer)]),
            signer,
            timestamp.to_bytes(8, "big"),
            bytes([len(origin)]),
            origin,
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def verify_checkpoint(note: bytes, keys: Sequence[VerifierKey]) -> VerifiedCheckpoint:
    """Return the checkpoint of a signed note that fulfils the rule above.

    Raises:
        AuditError: it does not; the message says which part failed.
    """
    # 1. Well-formed.
    parsed = parse_note(note)
    checkpoint = parse_checkpoint_text(parsed.text)
    # 2. Every signature by a trusted key verifies. 4. Others are passed over.
    signed_by: list[VerifierKey] = []
    signed_at: int | None = None
    trusted = {(key.name, key.key_id): key for key in keys}
    for signature in parsed.signatures:
        key = trusted.get((signature.name, signature.key_id))
        if key is None:
            continue
        if key in signed_by:
            raise AuditError(f"the checkpoint has two signatures by one key of {key.name!r}")
        stamp = _verify_signature(parsed, checkpoint, signature, key)
        signed_by.append(key)
        if stamp is not None and key.name == checkpoint.origin:
            signed_at = stamp
    # 3. One of each algorithm of the log.
    wanted = {key.algorithm for key in keys if key.name == checkpoint.origin}
    if not wanted:
        raise AuditError(f"no trusted key belongs to the log {checkpoint.origin!r}")
    given = {key.algorithm for key in signed_by if key.name == checkpoint.origin}
    for algorithm in sorted(wanted - given):
        raise AuditError(
            f"the checkpoint of {checkpoint.origin!r} lacks its {ALGORITHM_NAMES[algorithm]} "
            "signature by a trusted key"
        )
    return VerifiedCheckpoint(checkpoint, tuple(signed_by), signed_at, note)


def _verify_signature(
    note: Note, checkpoint: Checkpoint, signature: NoteSignature, key: VerifierKey
) -> int | None:
    """Check one signature; return its timestamp if its algorithm has one."""
    raw = signature.signature
    try:
        if key.algorithm != MLDSA44:
            Ed25519PublicKey.from_public_bytes(key.public).verify(raw, note.text.encode())
            return None
        stamp = int.from_bytes(raw[:_TIMESTAMP_BYTES], "big")
        if len(raw) <= _TIMESTAMP_BYTES or stamp > _TIMESTAMP_MAX:
            raise InvalidSignature
        message = cosigned_message(key.name, stamp, checkpoint)
        MLDSA44PublicKey.from_public_bytes(key.public).verify(raw[_TIMESTAMP_BYTES:], message)
    except (InvalidSignature, ValueError) as error:
        raise AuditError(
            f"the {ALGORITHM_NAMES[key.algorithm]} signature of {key.name!r} on the checkpoint "
            "is not valid"
        ) from error
    return stamp
