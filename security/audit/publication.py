"""The projection: the public tlog-tiles folder, written behind the durable segments.

Readers rely on one thing: whatever the file `checkpoint` covers is there. So the
checkpoint comes last, and files are removed only after it. Publishing twice gives
the same files, since all of them follow from the entries; that is how recovery
repairs a publication that a crash cut short.
"""

from __future__ import annotations

from security.audit.checkpoint import VerifiedCheckpoint
from security.audit.files import Files, folder_of, place_file, replace_file
from security.audit.segment import FOLDER, segment_name
from security.audit.store import LogStore
from security.audit.tiles import (
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    join_bundle,
    levels,
    tile_path,
)
from security.errors import AuditError

CHECKPOINT = "checkpoint"


def publish(store: LogStore) -> None:
    """Bring the public tree up to the durable entries. One thread at a time.

    Raises:
        AuditError: the disk failed; the store is broken from then on.
    """
    if store.broken:
        raise AuditError("the audit log stopped after an error of its disk")
    try:
        _publish(store)
    except OSError as error:
        store.broken = True
        raise AuditError(f"the audit log cannot publish: {error.strerror or error}") from error


def _publish(store: LogStore) -> None:
    # 1. Choose a size that is durable, and sign it.
    signed = store.checkpoint()
    size, old = signed.checkpoint.size, store.published
    # 2. Write full and partial tiles and bundles. If we crash here, the folder holds
    # files beyond its checkpoint, which readers do not look at and which the next
    # publication writes again with the same content.
    _write_tiles(store, old, size)
    # 3. Put the checkpoint in place. If we crash here, it is the old or the new one,
    # and the files of both are there.
    replace_file(store.files, CHECKPOINT, signed.note)
    store.published = size
    # 4. Let go of what is on disk now. If we crash in here, partial tiles or segments
    # are left over: harmless, and segments are removed by the next publication.
    _release(store, old, size)
    _remove_partials(store.files, old, size)
    _remove_segments(store, signed)


def full_tiles(old: int, new: int) -> list[tuple[int, int]]:
    """Return (level, index) of the tiles that became full between two sizes."""
    result = []
    for level in range(levels(new)):
        shift = TILE_HEIGHT * (level + 1)
        result += [(level, index) for index in range(old >> shift, new >> shift)]
    return result


def partial_tiles(size: int) -> list[tuple[int, int, int]]:
    """Return (level, index, width) of the partial tiles of a tree."""
    result = []
    for level in range(levels(size)):
        index, width = divmod(size >> (TILE_HEIGHT * level), TILE_WIDTH)
        if width:
            result.append((level, index, width))
    return result


def _write_tiles(store: LogStore, old: int, size: int) -> None:
    touched: set[str] = set()

    def place(level: int | str, index: int, width: int, data: bytes) -> None:
        name = tile_path(level, index, width)
        place_file(store.files, name, data)
        touched.add(folder_of(name))

    tail_start, tail = store.tail(size)
    for index in range(tail_start // TILE_WIDTH, -(-size // TILE_WIDTH)):
        offset = index * TILE_WIDTH - tail_start
        bundle = tail[offset : offset + TILE_WIDTH]
        place(ENTRIES, index, len(bundle), join_bundle(bundle))
    for level, index in full_tiles(old, size):
        place(level, index, TILE_WIDTH, store.tree.tile_bytes(level, index, TILE_WIDTH))
    already = set(partial_tiles(old)) if old else set()
    for level, index, width in partial_tiles(size):
        # An upper level seldom changes. What was published before is still there.
        if (level, index, width) not in already:
            place(level, index, width, store.tree.tile_bytes(level, index, width))
    for folder in sorted(touched):
        store.files.sync_folder(folder)


def _release(store: LogStore, old: int, size: int) -> None:
    for level, index in full_tiles(old, size):
        store.tree.release(level, index)
    store.forget_tail(size - size % TILE_WIDTH)


def _remove_partials(files: Files, old: int, size: int) -> None:
    """Remove partial tiles whose full tile is published (C2SP tlog-tiles allows it)."""
    full: list[tuple[int | str, int]] = list(full_tiles(old, size))
    full += [(ENTRIES, index) for level, index in full_tiles(old, size) if level == 0]
    for level, index in full:
        folder = f"{tile_path(level, index)}.p"
        names = files.names(folder)
        for name in names:
            files.remove(f"{folder}/{name}")
        if names:
            files.remove_folder(folder)


def _remove_segments(store: LogStore, signed: VerifiedCheckpoint) -> None:
    """Remove segments all of whose entries are in full published bundles.

    The oldest goes first, and each removal is durable before the next, so that the
    segments on disk are always a gapless run.
    """
    safe = signed.checkpoint.size - signed.checkpoint.size % TILE_WIDTH
    while len(store.segments) > 1 and store.segments[1] <= safe:
        store.files.remove(segment_name(store.segments[0]))
        store.files.sync_folder(FOLDER)
        store.segments.pop(0)
