"""Receipts: what a client holds to prove what it asked and what it was answered.

A receipt is one JSON object with the log's entry, the key of the entry's
commitments, and a C2SP tlog-proof with the signed checkpoint. It is checked
offline with nothing but the log's verifier keys, and it is secret where the
texts are: the key turns the commitments into a test for any guessed text.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from security.audit.checkpoint import VerifiedCheckpoint
from security.audit.commitment import ANSWER_DOMAIN, KEY_BYTES, REQUEST_DOMAIN, commit
from security.audit.config import ENTRY_MAX_BYTES
from security.audit.entry import AuditEntry, parse_entry
from security.audit.note import decode_base64, parse_vkeys
from security.audit.proof import PROOF_MAX_BYTES, InclusionProof, parse_proof
from security.errors import AuditError, UsageError

FORMAT = "casemate.receipt/1"

# Trailing metadata `casemate-receipt-bin`: gRPC allows 8 KiB for all of it.
RECEIPT_MAX_BYTES = 7_000

_PARSE_MAX_BYTES = 2 * (ENTRY_MAX_BYTES + PROOF_MAX_BYTES)
_KEYS = {"format", "entry", "key", "proof"}


@dataclass(frozen=True, slots=True)
class Receipt:
    """A parsed receipt; nothing of it is proven before `verify_receipt`.

    Attributes:
        entry: the canonical bytes of the log's entry.
        key: the commitment key, 32 bytes.
        proof: the entry's place in the log.
    """

    entry: bytes
    key: bytes = field(repr=False)
    proof: InclusionProof

    def encode(self) -> bytes:
        """Return the receipt's bytes, canonical JSON (RFC 8785)."""
        data = {
            "format": FORMAT,
            "entry": base64.b64encode(self.entry).decode(),
            "key": base64.b64encode(self.key).decode(),
            "proof": self.proof.encode(),
        }
        return json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """A receipt whose entry is proven to be in the log that the keys belong to.

    Attributes:
        entry: what the log says of the request.
        index: the entry's number in the log.
        tree_size: the size of the log that the checkpoint states.
        key: the commitment key, 32 bytes.
        head: the checkpoint and who signed it.
    """

    entry: AuditEntry
    index: int
    tree_size: int
    key: bytes = field(repr=False)
    head: VerifiedCheckpoint


def build(entry: bytes, key: bytes, proof: InclusionProof) -> bytes:
    """Return the receipt of an entry.

    Args:
        entry: the canonical bytes that were appended.
        key: the commitment key of the request, 32 bytes.
        proof: what `AuditLog.receipt_for` gave for the entry's index.

    Raises:
        UsageError: the key has another length, or the receipt would not fit its trailer.
    """
    if len(key) != KEY_BYTES:
        raise UsageError(f"a commitment key has {KEY_BYTES} bytes")
    encoded = Receipt(entry, key, proof).encode()
    if len(encoded) >= RECEIPT_MAX_BYTES:
        raise UsageError(
            f"the receipt would have {len(encoded)} bytes, more than {RECEIPT_MAX_BYTES - 1}"
        )
    return encoded


def parse(data: bytes) -> Receipt:
    """Parse a receipt.

    Raises:
        AuditError: it is not the canonical encoding of one.
    """
    if len(data) > _PARSE_MAX_BYTES:
        raise AuditError(f"a receipt has at most {_PARSE_MAX_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AuditError("the receipt is not JSON") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise AuditError(f"not a receipt of format {FORMAT}")
    if set(value) != _KEYS or not all(isinstance(item, str) for item in value.values()):
        raise AuditError("a receipt has format, entry, key and proof, each a string")
    receipt = Receipt(
        decode_base64(value["entry"], "the receipt's entry"),
        decode_base64(value["key"], "the receipt's key"),
        parse_proof(value["proof"]),
    )
    if len(receipt.key) != KEY_BYTES:
        raise AuditError(f"the receipt's key does not have {KEY_BYTES} bytes")
    if receipt.encode() != data:
        raise AuditError("the receipt's bytes are not canonical")
    return receipt


def verify_receipt(data: bytes, vkeys: str) -> VerifiedReceipt:
    """Check a receipt against the log's verifier keys.

    1. It parses; 2. the log signed the checkpoint, with every algorithm that is
    trusted; 3. the entry is in the log of that checkpoint; 4. the entry is valid.

    Args:
        data: the receipt's bytes.
        vkeys: the text of `log.vkeys`.

    Raises:
        AuditError: a step failed.
    """
    receipt = parse(data)
    head = receipt.proof.verify(receipt.entry, parse_vkeys(vkeys))
    entry = parse_entry(receipt.entry)
    return VerifiedReceipt(entry, receipt.proof.index, head.checkpoint.size, receipt.key, head)


def check_request(receipt: VerifiedReceipt, parts: Iterable[bytes]) -> bool:
    """Tell whether the entry commits to exactly this request (see commitment.py)."""
    return _check(receipt, REQUEST_DOMAIN, receipt.entry.request_commitment, parts)


def check_answer(receipt: VerifiedReceipt, parts: Iterable[bytes]) -> bool:
    """Tell whether the entry commits to exactly this answer (see commitment.py)."""
    return _check(receipt, ANSWER_DOMAIN, receipt.entry.answer_commitment, parts)


def _check(receipt: VerifiedReceipt, domain: str, stated: str, parts: Iterable[bytes]) -> bool:
    expected = commit(receipt.key, domain, parts).hex()
    return hmac.compare_digest(expected, stated)
