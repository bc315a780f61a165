"""What a crash can leave at the end is a torn tail; any other damage is refused."""

from __future__ import annotations

import random
import struct
import zlib

import pytest

from security.audit.merkle import leaf_hash
from security.audit.segment import (
    HEADER_BYTES,
    encode_batch,
    encode_header,
    parse_segment,
    segment_name,
)
from security.errors import AuditError


def batch(first: int, *entries: bytes) -> bytes:
    return encode_batch(first, entries, [leaf_hash(entry) for entry in entries])


HEAD = encode_header(7)
ONE = batch(7, b"a", b"bb")
TWO = batch(9, b"c" * 65_535)
THREE = batch(10, b"d", b"e" * 40, b"f")
WHOLE = HEAD + ONE + TWO + THREE


def test_round_trip() -> None:
    segment = parse_segment(WHOLE, "s", may_be_torn=False)
    assert (segment.first, segment.end, segment.whole_bytes) == (7, 13, len(WHOLE))
    assert segment.entries == [b"a", b"bb", b"c" * 65_535, b"d", b"e" * 40, b"f"]
    assert segment.leaves == [leaf_hash(entry) for entry in segment.entries]
    assert segment_name(7) == "segments/00000000000000000007.segment"


def test_every_cut_of_the_last_batch_is_a_torn_tail() -> None:
    start = len(HEAD + ONE + TWO)
    for end in range(start, len(WHOLE)):
        segment = parse_segment(WHOLE[:end], "s", may_be_torn=True)
        assert (segment.end, segment.whole_bytes) == (10, start)
        if end > start:
            with pytest.raises(AuditError, match="damaged at byte"):
                parse_segment(WHOLE[:end], "s", may_be_torn=False)


def test_every_flipped_byte_of_the_last_batch_is_dropped() -> None:
    start = len(HEAD + ONE + TWO)
    for position in range(start, len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[position] ^= 0x10
        assert parse_segment(bytes(damaged), "s", may_be_torn=True).end == 10


def test_damage_before_a_later_batch_is_refused_even_in_the_last_segment() -> None:
    start = len(HEAD)
    places = [
        *range(start, start + len(ONE) + 60),
        *range(len(HEAD + ONE + TWO) - 40, len(HEAD + ONE + TWO)),
    ]
    for position in places:
        damaged = bytearray(WHOLE)
        damaged[position] ^= 0x10
        with pytest.raises(AuditError, match="durable entries are damaged"):
            parse_segment(bytes(damaged), "s", may_be_torn=True)


def test_bad_header_is_refused() -> None:
    for position in range(HEADER_BYTES):
        damaged = bytearray(WHOLE)
        damaged[position] ^= 1
        with pytest.raises(AuditError, match="header"):
            parse_segment(bytes(damaged), "s", may_be_torn=True)
    for end in range(HEADER_BYTES):
        with pytest.raises(AuditError, match="header"):
            parse_segment(WHOLE[:end], "s", may_be_torn=True)


def test_removed_and_reordered_batches_are_refused() -> None:
    for data in (HEAD + TWO + THREE, HEAD + TWO + ONE, HEAD + ONE + THREE + TWO):
        with pytest.raises(AuditError):
            parse_segment(data, "s", may_be_torn=False)


def forged(payload: bytes, count: int) -> bytes:
    """A batch whose checksums are right and whose content is not."""
    head = struct.pack(">4sIIQI", b"\xc5BA1", len(payload), count, 7, zlib.crc32(payload))
    return HEAD + head + zlib.crc32(head).to_bytes(4, "big") + payload


def test_wrong_leaf_hash_and_wrong_counts_under_right_checksums_are_refused() -> None:
    record = (1).to_bytes(2, "big") + leaf_hash(b"a") + b"b"
    with pytest.raises(AuditError, match="leaf hash"):
        parse_segment(forged(record, 1), "s", may_be_torn=True)
    good = (1).to_bytes(2, "big") + leaf_hash(b"a") + b"a"
    with pytest.raises(AuditError, match="fewer"):
        parse_segment(forged(good, 2), "s", may_be_torn=True)
    with pytest.raises(AuditError, match="more"):
        parse_segment(forged(good + good, 1), "s", may_be_torn=True)


def test_random_bytes_never_crash_the_parser() -> None:
    source = random.Random(1)
    for _ in range(300):
        data = bytearray(WHOLE[: source.randrange(len(HEAD), 300)])
        for _ in range(source.randrange(1, 20)):
            data[source.randrange(len(data))] = source.randrange(256)
        try:
            parse_segment(bytes(data), "s", may_be_torn=source.random() < 0.5)
        except AuditError:
            continue
