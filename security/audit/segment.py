"""Durable segments: where an entry is first, and what is true after a crash.

A segment is a header and then batches. Each batch was written by one append and
made durable by one flush before the next began, so after a crash at most the
*last* batch of the *last* segment can be damaged. This is what tells a torn tail
(dropped: nobody was told of it) from damage to durable entries (refused).

    header  8 bytes magic, uint64 index of the first entry, uint32 CRC of the former
    batch   4 bytes magic, uint32 payload length, uint32 entries, uint64 index of the
            first, uint32 CRC of the payload, uint32 CRC of the batch header so far
    payload per entry: uint16 length, 32 bytes leaf hash, the entry

All integers are big-endian; CRC is CRC-32 (ISO-HDLC, as in zlib). The checksum
finds accidents; the leaf hashes and the signed checkpoints find intent.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from security.audit.merkle import HASH_BYTES, leaf_hash
from security.errors import AuditError

FOLDER = "segments"
_MAGIC = b"\xc5CMSEG1\n"
_BATCH_MAGIC = b"\xc5BA1"
_HEADER = struct.Struct(">8sQI")
_BATCH = struct.Struct(">4sIIQII")
_CRC_BYTES = 4
_RECORD = struct.Struct(f">H{HASH_BYTES}s")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class Segment:
    """A parsed segment.

    Attributes:
        first: the index of its first entry.
        entries: the entries of all whole batches.
        leaves: their leaf hashes, checked.
        whole_bytes: how many bytes of the file are whole; the rest is a torn tail.
    """

    first: int
    entries: list[bytes]
    leaves: list[bytes]
    whole_bytes: int

    @property
    def end(self) -> int:
        """The index after the last entry."""
        return self.first + len(self.entries)


def segment_name(first: int) -> str:
    """Return the name of the segment that starts with entry `first`."""
    return f"{FOLDER}/{first:020d}.segment"


def encode_header(first: int) -> bytes:
    """Return the start of a segment."""
    head = _HEADER.pack(_MAGIC, first, 0)[:-_CRC_BYTES]
    return head + zlib.crc32(head).to_bytes(_CRC_BYTES, "big")


def encode_batch(first: int, entries: Sequence[bytes], leaves: Sequence[bytes]) -> bytes:
    """Return a batch of entries, each of at most 65,535 bytes."""
    payload = b"".join(
        _RECORD.pack(len(entry), leaf) + entry for entry, leaf in zip(entries, leaves, strict=True)
    )
    head = _BATCH.pack(_BATCH_MAGIC, len(payload), len(entries), first, zlib.crc32(payload), 0)
    head = head[:-_CRC_BYTES]
    return head + zlib.crc32(head).to_bytes(_CRC_BYTES, "big") + payload


def parse_segment(data: bytes, name: str, *, may_be_torn: bool) -> Segment:
    """Parse a segment.

    Args:
        data: the file's bytes.
        name: for messages.
        may_be_torn: whether it is the last segment, whose last batch may be damaged.

    Raises:
        AuditError: durable entries are damaged.
    """
    first = _parse_header(data, name)
    segment = Segment(first, [], [], 0)
    position = HEADER_BYTES
    while position < len(data):
        end = _parse_batch(data, position, segment, name)
        if end is None:
            # Damage at the very end, where nothing durable can follow, is a torn tail.
            if may_be_torn and not _batch_follows(data, position, segment.end):
                break
            raise AuditError(f"{name}: durable entries are damaged at byte {position}")
        position = end
    return Segment(first, segment.entries, segment.leaves, position)


def _parse_header(data: bytes, name: str) -> int:
    if len(data) >= HEADER_BYTES:
        magic, first, checksum = _HEADER.unpack_from(data)
        if magic == _MAGIC and checksum == zlib.crc32(data[: HEADER_BYTES - _CRC_BYTES]):
            return int(first)
    # The header is durable before the name is, so a crash cannot explain this.
    raise AuditError(f"{name}: the header of the segment is damaged")


def _parse_batch(data: bytes, position: int, segment: Segment, name: str) -> int | None:
    """Append a batch's entries to `segment` and return where it ends; None if damaged."""
    head = _batch_header(data, position)
    if head is None or head[2] != segment.end:
        return None
    length, count, _, checksum = head
    start = position + _BATCH.size
    payload = data[start : start + length]
    if len(payload) != length or zlib.crc32(payload) != checksum:
        return None
    offset = 0
    for _ in range(count):
        if offset + _RECORD.size > length:
            raise AuditError(f"{name}: a batch holds fewer entries than it says")
        size, leaf = _RECORD.unpack_from(payload, offset)
        offset += _RECORD.size
        entry = payload[offset : offset + size]
        offset += size
        if leaf_hash(entry) != leaf:
            raise AuditError(f"{name}: entry {segment.end} does not have its leaf hash")
        segment.entries.append(entry)
        segment.leaves.append(leaf)
    if offset != length:
        raise AuditError(f"{name}: a batch holds more entries than it says")
    return start + length


def _batch_header(data: bytes, position: int) -> tuple[int, int, int, int] | None:
    raw = data[position : position + _BATCH.size]
    if len(raw) != _BATCH.size:
        return None
    magic, length, count, first, checksum, own = _BATCH.unpack(raw)
    if magic != _BATCH_MAGIC or own != zlib.crc32(raw[:-_CRC_BYTES]):
        return None
    return length, count, first, checksum


def _batch_follows(data: bytes, position: int, index: int) -> bool:
    """Tell whether a later batch exists, which proves that the one here was durable."""
    found = data.find(_BATCH_MAGIC, position + 1)
    while found >= 0:
        head = _batch_header(data, found)
        if head is not None and head[2] > index:
            return True
        found = data.find(_BATCH_MAGIC, found + 1)
    return False
