from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.audit.merkle import leaf_hash, prove_inclusion, tree_root
from security.audit.publication import full_tiles, partial_tiles
from security.audit.tiles import (
    ENTRIES,
    TileTree,
    join_bundle,
    levels,
    split_bundle,
    tile_path,
)
from security.errors import AuditError, UsageError


def test_paths_of_the_specification() -> None:
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(ENTRIES, 0) == "tile/entries/000"
    assert tile_path(1, 999, 17) == "tile/1/999.p/17"
    assert tile_path(63, 1000) == "tile/63/x001/000"


def test_tiles_of_the_specification_s_example() -> None:
    """A tree of 70,000 entries, as worked out in C2SP tlog-tiles."""
    full = full_tiles(0, 70_000)
    assert sum(level == 0 for level, _ in full) == 273
    assert [tile for tile in full if tile[0] > 0] == [(1, 0)]
    assert partial_tiles(70_000) == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert full_tiles(0, 256) == [(0, 0)]
    assert partial_tiles(256) == [(1, 0, 1)]
    assert (levels(0), levels(255), levels(256), levels(65_536)) == (0, 1, 2, 3)


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_round_trip(entries: list[bytes]) -> None:
    data = join_bundle(entries)
    assert split_bundle(data) == entries
    if entries:
        with pytest.raises(AuditError, match="cut off"):
            split_bundle(data[:-1])


def test_released_tiles_are_loaded_again_and_memory_is_bounded() -> None:
    disk: dict[tuple[int, int], bytes] = {}
    loads: list[tuple[int, int]] = []

    def load(level: int, index: int) -> bytes:
        loads.append((level, index))
        return disk[level, index]

    tree = TileTree(load, cached_tiles=2)
    size = 256 * 9 + 5
    tree.extend([leaf_hash(number.to_bytes(2, "big")) for number in range(size)])
    root = tree_root(tree, size)
    paths = [prove_inclusion(tree, index, size) for index in range(0, size, 100)]
    for level, index in full_tiles(0, size):
        disk[level, index] = tree.tile_bytes(level, index, 256)
        tree.release(level, index)
    assert len(tree._cache) == 2
    assert not tree._full
    assert tree_root(tree, size) == root
    assert [prove_inclusion(tree, index, size) for index in range(0, size, 100)] == paths
    assert loads
    assert len(tree._cache) == 2


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 65_536 + 300])
def test_restored_from_full_tiles_alone(size: int) -> None:
    disk: dict[tuple[int, int], bytes] = {}
    grown = TileTree(lambda level, index: disk[level, index], 512)
    grown.extend([leaf_hash(number.to_bytes(4, "big")) for number in range(size + 300)])
    for level, index in full_tiles(0, size + 300):
        disk[level, index] = grown.tile_bytes(level, index, 256)
    restored = TileTree(lambda level, index: disk[level, index], 512)
    restored.restore(size)
    assert restored.size == size
    assert tree_root(restored, size) == tree_root(grown, size)
    more = [grown.node(0, number) for number in range(size, size + 300)]
    restored.extend(more)
    assert tree_root(restored, size + 300) == tree_root(grown, size + 300)


def test_refuses_what_is_not_there() -> None:
    tree = TileTree(lambda level, index: b"short", 4)
    tree.extend([bytes(32)] * 300)
    assert len(tree.tile_bytes(0, 1, 44)) == 44 * 32
    for level, index, width in (
        (0, 1, 45),
        (0, 0, 0),
        (0, 0, 257),
        (1, 0, 2),
        (-1, 0, 1),
        (0, -1, 1),
        (64, 0, 1),
        (10**6, 0, 1),
        (0, 10**30, 1),
    ):
        with pytest.raises(UsageError):
            tree.tile_bytes(level, index, width)
    tree.release(0, 0)
    tree._cache.clear()
    with pytest.raises(AuditError, match="8192 bytes"):
        tree.tile_bytes(0, 0, 256)
