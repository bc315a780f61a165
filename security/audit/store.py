"""One log without threads: stage, commit, apply; read; sign.

The order is what makes the log safe, and every step says what a crash there
leaves behind. The promises:

- An index that `commit` returned stays: the entry was flushed before.
- A checkpoint is signed only over flushed entries, so every recovered tree
  extends every checkpoint ever signed. The log never forks.
- After any error of the disk the store is `broken` and commits nothing more. A
  failed flush is never repeated: only `recovery.recover`, which reads everything
  anew and rewrites what it relies on, leads back.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from security.audit.checkpoint import VerifiedCheckpoint
from security.audit.config import LogConfig
from security.audit.files import AppendFile, Files, replace_file
from security.audit.merkle import leaf_hash, tree_root
from security.audit.segment import HEADER_BYTES, encode_batch, encode_header, segment_name
from security.audit.signer import LogSigner
from security.audit.tiles import (
    ENTRIES,
    TILE_WIDTH,
    TileTree,
    join_bundle,
    split_bundle,
    tile_path,
)
from security.errors import AuditError, UsageError


class LogStore:
    """A recovered log. One thread commits; reading and signing are thread-safe.

    Made by `recovery.recover`.

    Attributes:
        tree: the durable entries' hashes.
        published: the size that the public tree in the folder has.
        segments: the first index of each segment, the open one last.
        broken: an error of the disk happened; nothing is committed any more.
    """

    def __init__(self, files: Files, signer: LogSigner, config: LogConfig, tree: TileTree) -> None:
        self.files = files
        self.config = config
        self.tree = tree
        self.published = 0
        self.segments: list[int] = []
        self.broken = False
        self._signer = signer
        self._signed: VerifiedCheckpoint | None = None
        self._sign_lock = Lock()
        # Entries from the last multiple of 256 that is published: `_tail_start` onward.
        self._tail: list[bytes] = []
        self._tail_start = 0
        self._tail_lock = Lock()
        self._segment: AppendFile | None = None
        self._segment_bytes = 0

    @property
    def size(self) -> int:
        """The number of durable entries."""
        return self.tree.size

    @property
    def signed(self) -> VerifiedCheckpoint | None:
        """The newest checkpoint that this store has signed."""
        return self._signed

    def resume(self, published: int, tail_start: int, tail: list[bytes]) -> None:
        """Take over what recovery found out."""
        self.published = published
        self._tail_start = tail_start
        self._tail = tail

    def continue_segment(self, first: int, segment_bytes: int) -> None:
        """Append to an existing segment from now on."""
        self._segment = self.files.open_append(segment_name(first))
        self._segment_bytes = segment_bytes
        if not self.segments or self.segments[-1] != first:
            self.segments.append(first)

    def commit(self, entries: Sequence[bytes]) -> int:
        """Make entries durable with one flush; return the index of the first.

        Raises:
            AuditError: the disk failed; whether the entries are in the log is unknown
                until it is recovered, and the store takes no more.
        """
        if self.broken:
            raise AuditError("the audit log stopped after an error of its disk")
        # 1. Stage. If we crash here, nothing was written and nobody was told.
        first = self.tree.size
        leaves = [leaf_hash(entry) for entry in entries]
        batch = encode_batch(first, entries, leaves)
        try:
            if self._segment_bytes > HEADER_BYTES and (
                self._segment_bytes + len(batch) > self.config.segment_max_bytes
            ):
                self.start_segment(first)
            if self._segment is None:
                raise AuditError("the audit log is closed")
            # 2. Write. If we crash here, the batch is a torn tail, which recovery drops;
            # nobody was told.
            self._segment.append(batch)
            # 3. Commit. If we crash here, the batch is whole or torn. Nobody was told, so
            # both are right; no checkpoint covers it yet.
            self._segment.sync()
        except OSError as error:
            self.broken = True
            raise AuditError(f"the audit log cannot write: {error.strerror or error}") from error
        self._segment_bytes += len(batch)
        # 4. Apply. If we crash here, recovery reads the batch back from the segment.
        with self._tail_lock:
            self._tail.extend(entries)
            self.tree.extend(leaves)
        return first

    def start_segment(self, first: int) -> None:
        """Begin a new segment; everything in the former one is durable.

        If we crash in here, the new segment is not there, or is there and empty.

        Raises:
            OSError: the disk failed.
        """
        header = encode_header(first)
        replace_file(self.files, segment_name(first), header)
        self.close()
        self.continue_segment(first, len(header))

    def checkpoint(self) -> VerifiedCheckpoint:
        """Return a checkpoint over all durable entries; signs only if there are new ones.

        Concurrent callers share a signature.
        """
        with self._sign_lock:
            size = self.tree.size
            if self._signed is None or self._signed.checkpoint.size != size:
                self._signed = self._signer.sign(size, tree_root(self.tree, size))
            return self._signed

    def covering(self, index: int) -> VerifiedCheckpoint:
        """Return the newest signed checkpoint if it covers the entry, else sign a new one."""
        signed = self._signed
        if signed is not None and signed.checkpoint.size > index:
            return signed
        return self.checkpoint()

    def tail(self, size: int) -> tuple[int, list[bytes]]:
        """Return where the unpublished bundles start, and the entries from there to `size`."""
        with self._tail_lock:
            return self._tail_start, self._tail[: size - self._tail_start]

    def forget_tail(self, start: int) -> None:
        """Drop the entries below `start` from memory; they are in published bundles."""
        with self._tail_lock:
            del self._tail[: start - self._tail_start]
            self._tail_start = start

    def bundle(self, index: int, width: int) -> bytes:
        """Return the first `width` entries of an entry bundle.

        Raises:
            UsageError: they do not exist yet.
            AuditError, OSError: the published bundle is damaged or cannot be read.
        """
        start = index * TILE_WIDTH
        if index < 0 or not 1 <= width <= TILE_WIDTH or start + width > self.size:
            raise UsageError("that entry bundle does not exist yet")
        with self._tail_lock:
            offset = start - self._tail_start
            if offset >= 0:
                return join_bundle(self._tail[offset : offset + width])
        entries = split_bundle(self.files.read(tile_path(ENTRIES, index)))
        if len(entries) != TILE_WIDTH:
            raise AuditError(f"{tile_path(ENTRIES, index)} does not hold {TILE_WIDTH} entries")
        return join_bundle(entries[:width])

    def close(self) -> None:
        """Close the open segment; nothing is written."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None
