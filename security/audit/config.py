"""Every limit of the audit log, named, validated and frozen."""

from __future__ import annotations

from dataclasses import dataclass, fields

from security.errors import UsageError

# An entry's length is a uint16 in the entry bundles of C2SP tlog-tiles.
ENTRY_MAX_BYTES = 65_535

# One batch can hold at least one entry of the largest size.
_BATCH_FLOOR_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Limits of one log.

    Attributes:
        segment_max_bytes: a durable segment is closed once it is this large; opening
            the log rewrites at most one segment.
        batch_max_entries: entries that share one flush.
        batch_max_bytes: bytes that share one flush.
        queue_max_entries: entries that may wait; beyond it an append fails at once.
        publish_interval_seconds: the public tree is at most this far behind.
        publish_max_entries: publish earlier when this many entries wait for it.
        unpublished_max_entries: the writer waits for the publisher beyond this.
        cached_tiles: full tiles kept in memory, 16 KiB each.
    """

    segment_max_bytes: int = 16 << 20
    batch_max_entries: int = 1024
    batch_max_bytes: int = 4 << 20
    queue_max_entries: int = 65_536
    publish_interval_seconds: float = 1.0
    publish_max_entries: int = 4096
    unpublished_max_entries: int = 32_768
    cached_tiles: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise UsageError(f"audit log: {field.name} must be greater than zero")
        if self.batch_max_bytes < _BATCH_FLOOR_BYTES:
            raise UsageError(f"audit log: batch_max_bytes must be {_BATCH_FLOOR_BYTES} or more")
        if self.unpublished_max_entries < self.publish_max_entries:
            raise UsageError(
                "audit log: unpublished_max_entries must be publish_max_entries or more"
            )
