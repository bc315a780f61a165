from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from security.audit.commitment import (
    ANSWER_DOMAIN,
    KEY_BYTES,
    REQUEST_DOMAIN,
    Committer,
    commit,
    new_key,
)
from security.audit.config import LogConfig
from security.audit.entry import (
    COMPLETED_MAX_BYTES,
    KINDS,
    AuditEntry,
    condense_verdicts,
    duration_bucket,
    fitted,
    parse_entry,
)
from security.errors import AuditError, UsageError

HEX = "0123456789abcdef" * 4
TEXT = st.text(max_size=20)
ENTRIES = st.builds(
    AuditEntry,
    kind=st.sampled_from(["admitted", "denied", "operation"]),
    time_ms=st.integers(0, 253_402_300_799_999),
    request_id=TEXT,
    principal=TEXT,
    role=TEXT,
    method=TEXT,
    model=TEXT,
    version=TEXT,
    bundle_digest=st.sampled_from(["", HEX]),
    policy_digest=st.sampled_from(["", HEX]),
    prompt_tokens=st.integers(0, 2**53 - 1),
    completion_tokens=st.integers(0, 2**53 - 1),
    duration_bucket=TEXT,
    status=TEXT,
    verdicts=st.lists(st.text(min_size=1, max_size=9), max_size=3).map(tuple),
    request_commitment=st.sampled_from(["", HEX]),
    answer_commitment=st.sampled_from(["", HEX]),
    detail=TEXT,
)


@given(ENTRIES)
def test_bytes_are_rfc_8785_and_round_trip(entry: AuditEntry) -> None:
    data = entry.encode()
    assert data == rfc8785.dumps(json.loads(data))
    assert parse_entry(data) == entry


def typical() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        AuditEntry(
            kind="completed",
            time_ms=1_700_000_000_000,
            principal="spiffe://example.internal/device/a",
            prompt_tokens=3,
            verdicts=("card-number:redact",),
            request_commitment=HEX,
        ).encode()
    )
    return value


def changed(**values: Any) -> bytes:
    return json.dumps(
        {**typical(), **values}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


BAD = {
    "not JSON": b"{",
    "a list": b"[]",
    "not UTF-8": b"\xff\xfe",
    "no format": changed(format=None),
    "other format": changed(format="casemate.audit/2"),
    "unknown field": changed(colour="red"),
    "unknown kind": changed(kind="deleted"),
    "no kind": b'{"format":"casemate.audit/1","time_ms":1}',
    "negative time": changed(time_ms=-1),
    "time as text": changed(time_ms="1"),
    "time as a float": changed(time_ms=1.5),
    "true for a number": changed(prompt_tokens=True),
    "huge count": changed(prompt_tokens=2**53),
    "short digest": changed(request_commitment="ab"),
    "digest in capitals": changed(request_commitment=HEX.upper()),
    "null text": changed(principal=None),
    "verdicts as text": changed(verdicts="ab"),
    "an empty verdict": changed(verdicts=[""]),
    "a default spelled out": changed(detail=""),
    "spaces": json.dumps(typical(), sort_keys=True).encode(),
    "other order": json.dumps(typical(), separators=(",", ":"))
    .encode()
    .replace(b"{", b'{"kind":"completed",', 1),
    "lone surrogate": changed(detail="x").replace(b'"x"', b'"\\ud800"'),
    "escaped letter": changed(principal="b").replace(b'"b"', b'"\\u0062"'),
    "deeply nested": b"[" * 100_000,
}


@pytest.mark.parametrize("name", BAD)
def test_anything_but_canonical_bytes_is_refused(name: str) -> None:
    assert parse_entry(changed())
    with pytest.raises(AuditError):
        parse_entry(BAD[name])


def test_a_completed_entry_fits_a_receipt() -> None:
    with pytest.raises(UsageError, match=str(COMPLETED_MAX_BYTES)):
        AuditEntry(kind="completed", time_ms=1, principal="x" * COMPLETED_MAX_BYTES).encode()
    assert AuditEntry(kind="denied", time_ms=1, principal="x" * COMPLETED_MAX_BYTES).encode()
    with pytest.raises(UsageError):
        AuditEntry(kind="denied", time_ms=1, detail="x" * 70_000).encode()


def test_kinds() -> None:
    assert KINDS == ("admitted", "completed", "denied", "operation")


def test_duration_buckets() -> None:
    times = (0, 0.0099, 0.01, 0.5, 1, 9.9, 30, 60, 1e9)
    found = [duration_bucket(seconds) for seconds in times]
    assert found == ["<10ms", "<10ms", "<100ms", "<1s", "<10s", "<10s", "<60s", ">=60s", ">=60s"]


def test_condensed_verdicts_are_distinct_and_bounded() -> None:
    assert condense_verdicts(["a:flag", "b:block", "a:flag", ""]) == ("a:flag", "b:block")
    many = condense_verdicts(f"rule-{number}:flag" for number in range(500))
    assert many[0] == "rule-0:flag"
    assert many[-1] == f"+{500 - (len(many) - 1)}"
    assert sum(map(len, many)) < 300
    assert condense_verdicts([]) == ()


PARTS = st.lists(st.binary(max_size=20), max_size=5)


@given(PARTS, PARTS)
def test_commitments_tell_lists_of_parts_apart(one: list[bytes], other: list[bytes]) -> None:
    key = bytes(KEY_BYTES)
    same = commit(key, REQUEST_DOMAIN, one) == commit(key, REQUEST_DOMAIN, other)
    assert same == (one == other)


def test_commitments_depend_on_key_and_domain_and_parts() -> None:
    key = new_key()
    assert len(key) == KEY_BYTES
    base = commit(key, REQUEST_DOMAIN, [b"ab"])
    assert base != commit(new_key(), REQUEST_DOMAIN, [b"ab"])
    assert base != commit(key, ANSWER_DOMAIN, [b"ab"])
    assert base != commit(key, REQUEST_DOMAIN, [b"a", b"b"])
    committer = Committer(key, REQUEST_DOMAIN)
    committer.add(b"ab")
    assert committer.digest() == base
    with pytest.raises(UsageError):
        Committer(b"short", REQUEST_DOMAIN)


def test_commitment_is_what_the_format_says() -> None:
    import hashlib
    import hmac

    message = (18).to_bytes(8, "big") + b"casemate.request/1" + (2).to_bytes(8, "big") + b"hi"
    expected = hmac.new(bytes(32), message, hashlib.sha256).digest()
    assert commit(bytes(32), REQUEST_DOMAIN, [b"hi"]) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"segment_max_bytes": 0},
        {"publish_interval_seconds": 0},
        {"batch_max_bytes": 100},
        {"unpublished_max_entries": 1},
        {"cached_tiles": -1},
    ],
)
def test_impossible_limits_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LogConfig(**values)


def longest(**changes: Any) -> AuditEntry:
    """Return an entry with the longest names that identities, bundles and services have."""
    values: dict[str, Any] = {
        "kind": "completed",
        "time_ms": 253_402_300_799_999,
        "request_id": "f" * 32,
        "principal": f"spiffe://{'t' * 255}/{'r' * 32}/{'n' * 63}",
        "role": "r" * 32,
        "method": "inference.GRPCInferenceService/ModelStreamInfer",
        "model": "m" * 64,
        "version": "1" * 64,
        "bundle_digest": HEX,
        "policy_digest": HEX,
        "prompt_tokens": 1 << 31,
        "completion_tokens": 1 << 31,
        "duration_bucket": "<100ms",
        "status": "FAILED_PRECONDITION",
        "verdicts": condense_verdicts([f"{'v' * 50}{number}:redact" for number in range(9)]),
        "request_commitment": HEX,
        "answer_commitment": HEX,
        "detail": "d" * 128,
    }
    return AuditEntry(**(values | changes))


def test_a_completed_entry_with_the_longest_names_still_fits() -> None:
    with pytest.raises(UsageError, match=str(COMPLETED_MAX_BYTES)):
        longest().encode()
    short = fitted(longest())
    assert len(short.encode()) <= COMPLETED_MAX_BYTES
    assert short.verdicts == ("+9",)
    kept = replace(longest(), verdicts=short.verdicts, detail=short.detail)
    assert short == kept  # who, what and the outcome are whole
    assert longest().detail.startswith(short.detail)


def test_no_more_is_given_up_than_needed() -> None:
    small = longest(principal="spiffe://t/r/n", verdicts=("a:block", "+2"))
    assert fitted(small) == small
    some = longest(principal=f"spiffe://{'t' * 180}/r/n", verdicts=("a" * 200 + ":block", "+2"))
    assert fitted(some) == replace(some, verdicts=("+3",))


@given(st.text(max_size=64), st.text(max_size=64), st.text(max_size=128))
def test_names_that_no_model_has_fit_as_well(model: str, version: str, detail: str) -> None:
    odd = longest(model=model, version=version, detail=detail, principal="spiffe://t/r/n")
    assert len(fitted(odd).encode()) <= COMPLETED_MAX_BYTES
