"""C2SP tlog-proof: one text that proves an entry's place in a log, offline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from security.audit.checkpoint import VerifiedCheckpoint, parse_size, verify_checkpoint
from security.audit.merkle import HASH_BYTES, PROOF_MAX_HASHES, leaf_hash, verify_inclusion
from security.audit.note import NOTE_MAX_BYTES, VerifierKey, decode_base64
from security.errors import AuditError

HEADER = "c2sp.org/tlog-proof@v1"
PROOF_MAX_BYTES = NOTE_MAX_BYTES + (8 << 10)


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That entry `index` is in the log of the checkpoint; unchecked until `verify`.

    Attributes:
        index: the entry's number, from 0.
        hashes: RFC 6962 audit path, the leaf's sibling first, 32 bytes each.
        checkpoint: the signed note.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> str:
        """Return the tlog-proof text."""
        lines = [HEADER, f"index {self.index}"]
        lines += [base64.b64encode(item).decode() for item in self.hashes]
        return "\n".join(lines) + "\n\n" + self.checkpoint.decode()

    def verify(self, entry: bytes, keys: Sequence[VerifierKey]) -> VerifiedCheckpoint:
        """Check the checkpoint's signatures, and that `entry` is number `index` under it.

        Raises:
            AuditError: one of the two does not hold.
        """
        verified = verify_checkpoint(self.checkpoint, keys)
        head = verified.checkpoint
        verify_inclusion(self.index, head.size, leaf_hash(entry), self.hashes, head.root)
        return verified


def parse_proof(text: str) -> InclusionProof:
    """Parse a tlog-proof without extra data.

    Raises:
        AuditError: it is malformed.
    """
    if len(text) > PROOF_MAX_BYTES:
        raise AuditError(f"a proof has at most {PROOF_MAX_BYTES} bytes")
    head, blank, note = text.partition("\n\n")
    lines = head.split("\n")
    if not blank or len(lines) < 2 or lines[0] != HEADER:
        raise AuditError(f"not a proof: it does not start with {HEADER}")
    if lines[1].startswith("extra "):
        raise AuditError("the proof holds extra data, which no log of this kind writes")
    if not lines[1].startswith("index "):
        raise AuditError("the proof does not say which entry it is for")
    if len(lines) - 2 > PROOF_MAX_HASHES:
        raise AuditError(f"a proof has at most {PROOF_MAX_HASHES} hashes")
    hashes = tuple(decode_base64(line, "a hash of the proof") for line in lines[2:])
    if any(len(item) != HASH_BYTES for item in hashes):
        raise AuditError(f"every hash of a proof has {HASH_BYTES} bytes")
    try:
        checkpoint = note.encode()
    except UnicodeEncodeError as error:
        raise AuditError("the proof is not valid Unicode") from error
    return InclusionProof(parse_size(lines[1].removeprefix("index ")), hashes, checkpoint)
