"""Reading a log from its public folder, as any auditor can, without its keys.

Reads the C2SP tlog-tiles layout. A reader may run beside a live log: it fixes on
one checkpoint, and where a partial tile has been replaced by the full one since,
it takes the front of that.

Nothing read here is trusted by itself: `verify.py` checks it all, and a single
proof is checked against the checkpoint's root.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from security.audit.checkpoint import VerifiedCheckpoint, verify_checkpoint
from security.audit.merkle import HASH_BYTES, leaf_hash, prove_inclusion, tree_root
from security.audit.note import NOTE_MAX_BYTES, VerifierKey
from security.audit.proof import InclusionProof
from security.audit.publication import CHECKPOINT
from security.audit.tiles import (
    ENTRIES,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    split_bundle,
    tile_path,
)
from security.errors import AuditError, UsageError

_BUNDLE_MAX_BYTES = TILE_WIDTH * (2 + 65_535)
_CACHED_TILES = 512


class PublishedLog:
    """A log's folder under one checkpoint whose signatures are checked. `Nodes`.

    Args:
        folder: the log's folder.
        keys: trusted verifier keys.

    Raises:
        AuditError: there is no checkpoint, or it is not acceptable.
    """

    def __init__(self, folder: Path, keys: Sequence[VerifierKey]) -> None:
        self._folder = folder
        self.head: VerifiedCheckpoint = verify_checkpoint(
            read_bounded(folder / CHECKPOINT, NOTE_MAX_BYTES), keys
        )
        self._tile = lru_cache(maxsize=_CACHED_TILES)(self._read_tile)

    @property
    def size(self) -> int:
        """The number of entries that the checkpoint covers."""
        return self.head.checkpoint.size

    def node(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree, from its tile; see `merkle.Nodes`."""
        level, inner = divmod(height, TILE_HEIGHT)
        tile_index, offset = divmod(index << inner, TILE_WIDTH)
        return self._tile(level, tile_index).node(inner, offset >> inner)

    def hashes(self, level: int, index: int) -> bytes:
        """Return the hashes of a tile, as many as the checkpoint's size needs."""
        width = min(TILE_WIDTH, (self.size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH)
        data, written = self._read(level, index, width, TILE_BYTES)
        if len(data) != written * HASH_BYTES:
            raise AuditError(f"{tile_path(level, index, width)}: does not hold {written} hashes")
        return data[: width * HASH_BYTES]

    def bundle(self, index: int) -> list[bytes]:
        """Return the entries of a bundle, as many as the checkpoint's size needs."""
        width = min(TILE_WIDTH, self.size - index * TILE_WIDTH)
        name = tile_path(ENTRIES, index, width)
        data, written = self._read(ENTRIES, index, width, _BUNDLE_MAX_BYTES)
        try:
            found = split_bundle(data)
        except AuditError as error:
            raise AuditError(f"{name}: {error}") from error
        if len(found) != written:
            raise AuditError(f"{name}: holds {len(found)} entries, not {written}")
        return found[:width]

    def entries(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (index, entry) from `start` to the checkpoint's size."""
        for number in range(start // TILE_WIDTH, -(-self.size // TILE_WIDTH)):
            for offset, entry in enumerate(self.bundle(number)):
                index = number * TILE_WIDTH + offset
                if index >= start:
                    yield index, entry

    def entry(self, index: int) -> bytes:
        """Return one entry.

        Raises:
            UsageError: the checkpoint does not cover it.
        """
        if not 0 <= index < self.size:
            raise UsageError(f"the log has entries 0 to {self.size - 1}, no entry {index}")
        return self.bundle(index // TILE_WIDTH)[index % TILE_WIDTH]

    def prove(self, index: int) -> InclusionProof:
        """Return the proof of an entry under the checkpoint, checked.

        Raises:
            UsageError: the checkpoint does not cover the entry.
            AuditError: the folder is damaged.
        """
        entry = self.entry(index)
        path = tuple(prove_inclusion(self, index, self.size))
        proof = InclusionProof(index, path, self.head.note)
        proof.verify(entry, self.head.signed_by)
        return proof

    def root(self, size: int) -> bytes:
        """Return the root of the first `size` entries, from the tiles."""
        if size > self.size:
            raise UsageError(f"the log has {self.size} entries, not {size}")
        return tree_root(self, size)

    def leaf_is(self, index: int, entry: bytes) -> bool:
        """Tell whether the tiles hold this entry at this place."""
        return index < self.size and self.node(0, index) == leaf_hash(entry)

    def _read_tile(self, level: int, index: int) -> Tile:
        return Tile.from_bytes(self.hashes(level, index))

    def _read(self, level: int | str, index: int, width: int, limit: int) -> tuple[bytes, int]:
        """Return a tile's bytes, and the width that the file found should have."""
        partial = tile_path(level, index, width)
        for tried in (width, TILE_WIDTH):
            try:
                return read_bounded(self._folder / tile_path(level, index, tried), limit), tried
            except FileNotFoundError:
                continue
        raise AuditError(f"{partial} is missing")


def read_bounded(path: Path, limit: int) -> bytes:
    """Return a file's content of at most `limit` bytes.

    Raises:
        FileNotFoundError: there is no such file.
        AuditError: it is longer, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AuditError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise AuditError(f"{path} has more than {limit} bytes")
    return data
