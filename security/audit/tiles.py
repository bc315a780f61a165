"""The tree as C2SP tlog-tiles: 256 hashes a tile, and where each tile is stored.

`TileTree` keeps in memory the right edge (one unfinished tile a level), the full
tiles that are not published yet, and a bounded number of recently used ones. A
tile carries its inner nodes, so any node costs a look-up and an append costs
about one hash. Memory does not grow with the log.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from security.audit.merkle import HASH_BYTES, node_hash
from security.errors import AuditError, UsageError

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
TILE_BYTES = TILE_WIDTH * HASH_BYTES
ENTRIES = "entries"

LoadTile = Callable[[int, int], bytes]


def tile_path(level: int | str, index: int, width: int = TILE_WIDTH) -> str:
    """Return the name of a tile, or of an entry bundle when the level is `ENTRIES`.

    Index 1234067 becomes `x001/x234/067`; a partial tile ends in `.p/<width>`.
    """
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03d}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(parts)}{suffix}"


def levels(size: int) -> int:
    """Return how many levels of tiles a tree of `size` entries has."""
    return (size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT


def split_bundle(data: bytes) -> list[bytes]:
    """Return the entries of a bundle; each is preceded by its length, a big-endian uint16.

    Raises:
        AuditError: the lengths do not add up.
    """
    result = []
    position = 0
    while position < len(data):
        end = position + 2 + int.from_bytes(data[position : position + 2], "big")
        if position + 2 > len(data) or end > len(data):
            raise AuditError("an entry bundle is cut off")
        result.append(data[position + 2 : end])
        position = end
    return result


def join_bundle(entries: list[bytes]) -> bytes:
    """Return the bundle of some entries, each of at most 65,535 bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


class Tile:
    """Up to 256 hashes and all complete nodes above them; grows by `append`."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        # rows[h] holds the nodes at height h, one after the other.
        self.rows = [bytearray() for _ in range(TILE_HEIGHT + 1)]

    @classmethod
    def from_bytes(cls, data: bytes) -> Tile:
        """Return a tile of the hashes in `data`."""
        tile = cls()
        for position in range(0, len(data), HASH_BYTES):
            tile.append(data[position : position + HASH_BYTES])
        return tile

    def append(self, item: bytes) -> bytes | None:
        """Add a hash; return the tile's root if that made it full."""
        self.rows[0] += item
        for height in range(TILE_HEIGHT):
            row = self.rows[height]
            if len(row) % (2 * HASH_BYTES):
                return None
            pair = bytes(row[-2 * HASH_BYTES :])
            parent = node_hash(pair[:HASH_BYTES], pair[HASH_BYTES:])
            self.rows[height + 1] += parent
        return bytes(self.rows[TILE_HEIGHT])

    def node(self, height: int, index: int) -> bytes:
        """Return a node, or b"" if it is not complete yet."""
        return bytes(self.rows[height][index * HASH_BYTES : (index + 1) * HASH_BYTES])


class TileTree:
    """A growing tree; `Nodes` for proofs. Appended to by one thread, read by any.

    Args:
        load: returns the 8,192 bytes of a full tile that was released; may read a file.
        cached_tiles: how many released tiles stay in memory.
    """

    def __init__(self, load: LoadTile, cached_tiles: int) -> None:
        self.size = 0
        self._load = load
        self._cached_tiles = cached_tiles
        self._edge: list[Tile] = [Tile()]
        self._full: dict[tuple[int, int], Tile] = {}
        self._cache: OrderedDict[tuple[int, int], Tile] = OrderedDict()
        self._lock = Lock()

    def restore(self, size: int) -> None:
        """Become the tree of `size` entries whose full tiles `load` returns.

        Reads full tiles only: at most 255 a level, because a level's unfinished tile
        consists of the roots of full tiles below it.
        """
        for level in range(levels(size)):
            count = size >> (TILE_HEIGHT * level)
            start, width = count - count % TILE_WIDTH, count % TILE_WIDTH
            if level == 0:
                kept = self._read(0, count // TILE_WIDTH).rows[0] if width else b""
                tile = Tile.from_bytes(bytes(kept[: width * HASH_BYTES]))
            else:
                tile = Tile()
                for index in range(start, count):
                    tile.append(self._read(level - 1, index).node(TILE_HEIGHT, 0))
            self._edge[level:] = [tile, Tile()]
        self.size = size

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        with self._lock:
            self._append(leaf)

    def extend(self, leaves: list[bytes]) -> None:
        """Add leaf hashes; readers see all of them or none."""
        with self._lock:
            for leaf in leaves:
                self._append(leaf)

    def _append(self, leaf: bytes) -> None:
        item: bytes | None = leaf
        level = 0
        index = self.size
        while item is not None:
            item = self._edge[level].append(item)
            index >>= TILE_HEIGHT
            if item is not None:
                self._full[level, index] = self._edge[level]
                self._edge[level] = Tile()
                if level + 1 == len(self._edge):
                    self._edge.append(Tile())
            level += 1
        self.size += 1

    def node(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree; see `merkle.Nodes`.

        Raises:
            UsageError: the tree does not hold that subtree yet.
            AuditError, OSError: a tile could not be loaded.
        """
        if (index + 1) << height > self.size or height < 0 or index < 0:
            raise UsageError("that part of the log does not exist yet")
        level, inner = divmod(height, TILE_HEIGHT)
        tile_index, offset = divmod(index << inner, TILE_WIDTH)
        return self._tile(level, tile_index).node(inner, offset >> inner)

    def tile_bytes(self, level: int, index: int, width: int) -> bytes:
        """Return the first `width` hashes of a tile.

        Raises:
            UsageError: the tree does not hold them yet.
        """
        last = index * TILE_WIDTH + width
        if level < 0 or index < 0 or not 1 <= width <= TILE_WIDTH:
            raise UsageError("no such tile: the level and index start at 0, the width at 1")
        if level * TILE_HEIGHT > 64 or last << (TILE_HEIGHT * level) > self.size:
            raise UsageError("that tile does not exist yet")
        return bytes(self._tile(level, index).rows[0][: width * HASH_BYTES])

    def release(self, level: int, index: int) -> None:
        """Forget a full tile that `load` can return from now on."""
        with self._lock:
            tile = self._full.pop((level, index), None)
            if tile is not None:
                self._remember(level, index, tile)

    def _tile(self, level: int, index: int) -> Tile:
        key = (level, index)
        with self._lock:
            if level < len(self._edge) and self.size >> (TILE_HEIGHT * (level + 1)) == index:
                return self._edge[level]
            tile = self._full.get(key)
            if tile is None and key in self._cache:
                self._cache.move_to_end(key)
                tile = self._cache[key]
        if tile is not None:
            return tile
        tile = self._read(level, index)
        with self._lock:
            self._remember(level, index, tile)
        return tile

    def _read(self, level: int, index: int) -> Tile:
        data = self._load(level, index)
        if len(data) != TILE_BYTES:
            raise AuditError(f"{tile_path(level, index)} does not have {TILE_BYTES} bytes")
        return Tile.from_bytes(data)

    def _remember(self, level: int, index: int, tile: Tile) -> None:
        self._cache[level, index] = tile
        while len(self._cache) > self._cached_tiles:
            self._cache.popitem(last=False)
