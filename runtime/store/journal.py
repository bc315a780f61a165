"""An append-only file of JSON records that survives being cut off at any byte.

One record is one line: `LLLLLLLL CCCCCCCC {json}\\n`, with the length of the JSON
in bytes and its CRC-32, both as eight hex digits. The JSON holds `seq` (0, 1, ...),
`prev` (SHA-256 of the line before; 64 zeros for the first) and `data`.

Invariants: `append` returns only after the record is durable; a record cut off at
the end of the file was never acknowledged and is dropped on open; anything else
that does not check out is damage and raises JournalDamaged. After an append failed
the file is cut back to the last acknowledged record; when even that fails, the
journal refuses to go on until it is opened again (a failed fsync is never retried:
the kernel may have dropped the page).
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.store.errors import JournalDamaged, StoreError, io_error
from runtime.store.filesystem import Filesystem

FIRST_PREV = "0" * 64
MAX_RECORD_BYTES = 1 << 20
MAX_JOURNAL_BYTES = 1 << 28
_PREFIX_BYTES = 18  # eight digits, space, eight digits, space


@dataclass(frozen=True, slots=True)
class Replay:
    """What a journal's bytes say: its records, where they end, and the chain's head."""

    records: tuple[Mapping[str, Any], ...]
    size_bytes: int
    head: str


def encode_record(sequence: int, previous: str, data: Mapping[str, Any]) -> bytes:
    """Return the line for one record."""
    payload = json.dumps(
        {"data": data, "prev": previous, "seq": sequence},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    ).encode()
    return b"%08x %08x %s\n" % (len(payload), zlib.crc32(payload), payload)


def replay(path: Path, content: bytes) -> Replay:
    """Read a journal's bytes; drop a torn tail.

    Raises:
        JournalDamaged: a record that is not the torn last one does not check out.
    """
    records: list[Mapping[str, Any]] = []
    offset, head = 0, FIRST_PREV
    while offset < len(content):
        end = content.find(b"\n", offset)
        line = content[offset:] if end < 0 else content[offset : end + 1]
        payload = _payload(line)
        if payload is None:
            # Only the last append can be torn, and it is one line: whatever
            # follows a bad line was acknowledged after it.
            if 0 <= end < len(content) - 1 or len(line) > _stated_bytes(line):
                raise JournalDamaged(path, len(records), "length or CRC-32 is wrong")
            break
        record = _record(path, len(records), payload, head)
        records.append(record)
        head = hashlib.sha256(line).hexdigest()
        offset += len(line)
    return Replay(tuple(records), offset, head)


def _payload(line: bytes) -> bytes | None:
    """Return a whole line's JSON bytes, or None when length or CRC disagree."""
    if len(line) <= _PREFIX_BYTES or not line.endswith(b"\n") or len(line) > MAX_RECORD_BYTES:
        return None
    payload = line[_PREFIX_BYTES:-1]
    if line[:_PREFIX_BYTES] != b"%08x %08x " % (len(payload), zlib.crc32(payload)):
        return None
    return payload


def _stated_bytes(line: bytes) -> int:
    """Return how long a bad line says that it is; the most it may be, when it does not say."""
    try:
        return _PREFIX_BYTES + int(line[:8], 16) + 1
    except ValueError:
        return MAX_RECORD_BYTES


def _record(path: Path, number: int, payload: bytes, head: str) -> Mapping[str, Any]:
    try:
        record = json.loads(payload)
        data = record["data"]
        chained = record["prev"] == head and record["seq"] == number
    except (ValueError, KeyError, TypeError) as error:
        raise JournalDamaged(path, number, "it is not a journal record") from error
    if not chained:
        raise JournalDamaged(path, number, "the hash chain is broken before it")
    if not isinstance(data, dict):
        raise JournalDamaged(path, number, "it holds no object")
    return data


class Journal:
    """An open journal. One writer; the store's lock sees to that."""

    def __init__(
        self, path: Path, filesystem: Filesystem, descriptor: int, existing: Replay
    ) -> None:
        self._path = path
        self._filesystem = filesystem
        self._descriptor: int | None = descriptor
        self._size_bytes = existing.size_bytes
        self._head = existing.head
        self._count = len(existing.records)
        self._broken = False

    @classmethod
    def open(cls, path: Path, filesystem: Filesystem) -> tuple[Journal, Replay]:
        """Open or create a journal, cutting off a torn tail.

        Raises:
            JournalDamaged: see `replay`.
            StoreError: the file cannot be read, created or cut.
        """
        try:
            if not path.exists():
                descriptor = filesystem.create(path)
                filesystem.sync_file(descriptor)
                filesystem.close(descriptor)
                filesystem.sync_folder(path.parent)
            descriptor = filesystem.open_append(path)
        except OSError as error:
            raise io_error("cannot open", path, error) from error
        try:
            content = _read_all(path, descriptor)
            found = replay(path, content)
            if found.size_bytes < len(content):
                filesystem.truncate(descriptor, found.size_bytes)
                filesystem.sync_file(descriptor)
        except OSError as error:
            filesystem.close(descriptor)
            raise io_error("cannot read", path, error) from error
        except StoreError:
            filesystem.close(descriptor)
            raise
        return cls(path, filesystem, descriptor, found), found

    def append(self, data: Mapping[str, Any]) -> None:
        """Add one record; return once it is durable.

        Raises:
            StoreError: it could not be written; the journal is as it was before.
        """
        if self._descriptor is None or self._broken:
            raise StoreError(
                "io", f"{self._path}: an earlier write failed; restart to open the journal again"
            )
        line = encode_record(self._count, self._head, data)
        if len(line) > MAX_RECORD_BYTES:
            raise StoreError(
                "io", f"{self._path}: a record may not exceed {MAX_RECORD_BYTES} bytes"
            )
        try:
            self._filesystem.write(self._descriptor, line)
            # If we crash here: the whole line or a part of it may be in the file;
            # both are states a reader accepts, and nobody was told that it is in.
            self._filesystem.sync_file(self._descriptor)
        except OSError as error:
            self._cut_back()
            raise io_error("cannot write", self._path, error) from error
        self._size_bytes += len(line)
        self._head = hashlib.sha256(line).hexdigest()
        self._count += 1

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor is not None:
            self._filesystem.close(self._descriptor)
            self._descriptor = None

    def _cut_back(self) -> None:
        """Drop a part of a record; refuse further appends when that fails."""
        if self._descriptor is None:
            return
        try:
            self._filesystem.truncate(self._descriptor, self._size_bytes)
            self._filesystem.sync_file(self._descriptor)
        except OSError:
            self._broken = True


def _read_all(path: Path, descriptor: int) -> bytes:
    size_bytes = os.fstat(descriptor).st_size
    if size_bytes > MAX_JOURNAL_BYTES:
        raise StoreError(
            "io", f"{path} is over {MAX_JOURNAL_BYTES} bytes; this is no journal of ours"
        )
    content = bytearray()
    while len(content) < size_bytes:
        block = os.pread(descriptor, size_bytes - len(content), len(content))
        if not block:
            break
        content += block
    return bytes(content)
