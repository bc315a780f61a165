"""Receipts: built, checked offline, and every change to one found."""

from __future__ import annotations

import json
import random
import struct
from functools import cache
from pathlib import Path

import pytest

from security.audit import receipt as receipts
from security.audit.commitment import ANSWER_DOMAIN, REQUEST_DOMAIN, commit
from security.audit.config import LogConfig
from security.audit.entry import COMPLETED_MAX_BYTES, AuditEntry
from security.audit.log import AuditLog
from security.audit.merkle import leaf_hash, node_hash
from security.audit.proof import InclusionProof, parse_proof
from security.audit.receipt import build, check_answer, check_request, verify_receipt
from security.errors import AuditError, UsageError
from tests.audit.support import SIGNER, VKEYS, entry_bytes, make_signer

KEY = bytes(range(32))
REQUEST = [b"user", "Wie geht's? ☺".encode()]
ANSWER = [struct.pack("<3f", 0.5, -1.0, 2.0)]


def completed() -> bytes:
    return AuditEntry(
        kind="completed",
        time_ms=1_700_000_000_000,
        request_id="0123456789abcdef0123456789abcdef",
        principal="spiffe://example.internal/device/sensor-7",
        role="device",
        method="casemate.v1.TextService/Generate",
        model="gemma-3-270m",
        version="1.0.0",
        bundle_digest="ab" * 32,
        policy_digest="cd" * 32,
        prompt_tokens=12,
        completion_tokens=64,
        duration_bucket="<1s",
        status="OK",
        verdicts=("card-number:redact",),
        request_commitment=commit(KEY, REQUEST_DOMAIN, REQUEST).hex(),
        answer_commitment=commit(KEY, ANSWER_DOMAIN, ANSWER).hex(),
    ).encode()


@cache
def proven() -> InclusionProof:
    import tempfile

    with (
        tempfile.TemporaryDirectory() as folder,
        AuditLog.open(Path(folder), SIGNER, config=LogConfig()) as log,
    ):
        for number in range(40):
            log.append(entry_bytes(number))
        index = log.append(completed()).result(60)
        log.append(entry_bytes(41)).result(60)
        return log.receipt_for(index).result(60)


@pytest.fixture
def data() -> bytes:
    return build(completed(), KEY, proven())


def test_a_receipt_proves_entry_request_and_answer(data: bytes) -> None:
    receipt = verify_receipt(data, VKEYS)
    assert receipt.entry.encode() == completed()
    assert (receipt.index, receipt.key) == (40, KEY)
    assert receipt.tree_size in (41, 42)
    assert check_request(receipt, REQUEST)
    assert check_answer(receipt, ANSWER)
    assert not check_request(receipt, [*REQUEST, b""])
    assert not check_request(receipt, [b"".join(REQUEST)])
    assert not check_request(receipt, ANSWER)
    assert not check_answer(receipt, [])


def test_the_key_is_not_shown(data: bytes) -> None:
    receipt = verify_receipt(data, VKEYS)
    assert KEY.hex() not in repr(receipt) + repr(receipts.parse(data))
    assert repr(KEY) not in repr(receipt) + repr(receipts.parse(data))


def test_every_change_is_found_or_breaks_the_commitments(data: bytes) -> None:
    source = random.Random(9)
    for _ in range(1500):
        damaged = bytearray(data)
        damaged[source.randrange(len(data))] ^= 1 << source.randrange(8)
        try:
            receipt = verify_receipt(bytes(damaged), VKEYS)
        except AuditError:
            continue
        # Only the commitment key is not signed; a wrong one proves nothing.
        assert receipt.key != KEY
        assert receipt.entry.encode() == completed()
        assert not check_request(receipt, REQUEST)
        assert not check_answer(receipt, ANSWER)


def test_it_needs_the_keys_of_this_log(data: bytes) -> None:
    with pytest.raises(AuditError):
        verify_receipt(data, "".join(key.line() + "\n" for key in make_signer().keys))


def test_the_largest_receipt_fits_its_trailer() -> None:
    """The longest completed entry in a tree of 2^30 entries, under a 64-byte origin."""
    signer = make_signer("o" * 64)
    entry = b"x" * COMPLETED_MAX_BYTES
    size, path = 2**30, tuple(bytes([number]) * 32 for number in range(30))
    root = leaf_hash(entry)
    for item in path:
        root = node_hash(root, item)
    proof = InclusionProof(0, path, signer.sign(size, root).note)
    proof.verify(entry, signer.keys)
    data = build(entry, KEY, proof)
    assert 6_000 < len(data) < 7_000


def test_build_refuses_what_would_not_fit() -> None:
    with pytest.raises(UsageError, match="more than"):
        build(b"x" * 3000, KEY, proven())
    with pytest.raises(UsageError, match="32 bytes"):
        build(completed(), b"short", proven())


def mutated(data: bytes, **values: object) -> bytes:
    value = {**json.loads(data), **values}
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "values",
    [
        {"format": "casemate.receipt/2"},
        {"extra": "field"},
        {"entry": ""},
        {"entry": "****"},
        {"entry": None},
        {"key": "AAAA"},
        {"key": 5},
        {"proof": ""},
        {"proof": {"index": 1}},
    ],
)
def test_malformed_receipts_are_refused(values: dict[str, object], data: bytes) -> None:
    with pytest.raises(AuditError):
        verify_receipt(mutated(data, **values), VKEYS)


LONE = (
    b'{"entry":"","format":"casemate.receipt/1","key":"",'
    b'"proof":"c2sp.org/tlog-proof@v1\\nindex 4\\n\\n\\ud800"}'
)


@pytest.mark.parametrize(
    "bad",
    [b"", b"{}", b"[]", b"null", b"\xff", LONE, b'{"format":1}', b"[" * 100_000, b" " * 10**6],
)
def test_what_is_no_receipt_is_refused(bad: bytes) -> None:
    with pytest.raises(AuditError):
        verify_receipt(bad, VKEYS)


def test_spaces_and_double_names_are_refused(data: bytes) -> None:
    for bad in (data + b"\n", data.replace(b'{"entry"', b'{ "entry"'), b'{"key":"",' + data[1:]):
        with pytest.raises(AuditError, match="canonical"):
            verify_receipt(bad, VKEYS)


PROOF = "c2sp.org/tlog-proof@v1\nindex 3\n{hash}\n\nnote\n"
HASH = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


def test_the_proof_text_round_trips() -> None:
    text = PROOF.format(hash=HASH)
    proof = parse_proof(text)
    assert (proof.index, len(proof.hashes), proof.checkpoint) == (3, 1, b"note\n")
    assert proof.encode() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v2\nindex 3\n\nnote\n",
        "c2sp.org/tlog-proof@v1\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nindex 03\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nindex -3\n\nnote\n",
        "c2sp.org/tlog-proof@v1\nindex 3\n" + HASH + "\n",
        PROOF.format(hash="AAAA"),
        PROOF.format(hash=HASH[:-1]),
        PROOF.format(hash="\n".join([HASH] * 65)),
        PROOF.format(hash=HASH).replace("index", "extra AAAA\nindex"),
        "c2sp.org/tlog-proof@v1\nindex 3\n\n" + "x" * 10**6,
    ],
)
def test_malformed_proofs_are_refused(text: str) -> None:
    with pytest.raises(AuditError):
        parse_proof(text)
