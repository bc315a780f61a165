"""Checking a whole log from its public folder: every byte that a checkpoint covers.

The procedure:

1. The published checkpoint carries the signatures that the trusted keys demand.
2. Every entry is read and hashed; the hashes are those in the level-0 tiles.
3. Every tile of the levels above holds the roots of the tiles below it.
4. The root of all entries is the checkpoint's.
5. Every entry is a valid entry of its format.
6. A checkpoint held outside, if there is one, is signed by the same log, is not
   ahead of the log, and its root is that of the log's first entries. This is what
   finds a log that was cut, rolled back or rewritten by someone with its keys.
7. Partial tiles and bundles left over from earlier sizes agree with the log.

The first thing that is wrong ends the check and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from security.audit.checkpoint import VerifiedCheckpoint, verify_checkpoint
from security.audit.entry import parse_entry
from security.audit.merkle import HASH_BYTES, leaf_hash, tree_root
from security.audit.note import VerifierKey
from security.audit.publication import CHECKPOINT, full_tiles, partial_tiles
from security.audit.published import PublishedLog, read_bounded
from security.audit.tiles import (
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    TileTree,
    join_bundle,
    levels,
    tile_path,
)
from security.errors import AuditError

Progress = Callable[[int, int], None]
_LEFTOVER_MAX_BYTES = TILE_WIDTH * (2 + 65_535)


@dataclass(frozen=True, slots=True)
class Report:
    """What was proven about a log.

    Attributes:
        head: the checkpoint, and who signed it.
        entries: how many entries were checked, all of those it covers.
        held: the checkpoint held outside that the log extends, if one was given.
    """

    head: VerifiedCheckpoint
    entries: int
    held: VerifiedCheckpoint | None


def verify_log(
    folder: Path,
    keys: Sequence[VerifierKey],
    *,
    held: bytes | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check a whole log; see the module's procedure.

    Args:
        folder: the log's folder, or a copy of its public files.
        keys: trusted verifier keys.
        held: a signed checkpoint that was obtained earlier or elsewhere.
        progress: called with (entries checked, entries in all) now and then.

    Raises:
        AuditError: the log is not what its checkpoints say; names the first finding.
    """
    # 1. Signatures.
    try:
        log = PublishedLog(folder, keys)
    except FileNotFoundError as error:
        raise AuditError(f"{folder / CHECKPOINT} is missing") from error
    except AuditError as error:
        raise AuditError(f"{CHECKPOINT}: {error}") from error
    # 6, first part: fails early, before hours of hashing.
    outside = _check_held(log, keys, held)
    # 2, 3 and 5.
    tree = _rehash(log, progress)
    # 4. The root.
    if tree_root(tree, log.size) != log.head.checkpoint.root:
        raise AuditError(f"{CHECKPOINT}: its root hash is not that of the {log.size} entries")
    # 6. The held checkpoint's root.
    if outside is not None and tree_root(tree, outside.checkpoint.size) != outside.checkpoint.root:
        raise AuditError(
            f"the log was rewritten: its first {outside.checkpoint.size} entries are not those "
            "of the held checkpoint"
        )
    # 7. What is left over.
    for name, data in _leftovers(folder, log):
        _check_leftover(log, name, data)
    return Report(log.head, log.size, outside)


def _check_held(
    log: PublishedLog, keys: Sequence[VerifierKey], held: bytes | None
) -> VerifiedCheckpoint | None:
    if held is None:
        return None
    try:
        outside = verify_checkpoint(held, keys)
    except AuditError as error:
        raise AuditError(f"the held checkpoint is not acceptable: {error}") from error
    if outside.checkpoint.origin != log.head.checkpoint.origin:
        raise AuditError("the held checkpoint belongs to another log")
    if outside.checkpoint.size > log.size:
        raise AuditError(
            f"the log was cut, or is not published so far: it has {log.size} entries, the held "
            f"checkpoint covers {outside.checkpoint.size}"
        )
    return outside


def _rehash(log: PublishedLog, progress: Progress | None) -> TileTree:
    """Build the tree from the entries and compare each tile as it becomes final."""
    tree = TileTree(log.hashes, cached_tiles=TILE_WIDTH)
    for number in range(-(-log.size // TILE_WIDTH)):
        entries = log.bundle(number)
        start = number * TILE_WIDTH
        for offset, entry in enumerate(entries):
            try:
                parse_entry(entry)
            except AuditError as error:
                raise AuditError(f"entry {start + offset}: {error}") from error
        tree.extend([leaf_hash(entry) for entry in entries])
        for level, index in full_tiles(start, tree.size):
            _compare(log, tree, level, index, TILE_WIDTH)
            tree.release(level, index)
        if progress is not None:
            progress(tree.size, log.size)
    for level, index, width in partial_tiles(log.size):
        _compare(log, tree, level, index, width)
    return tree


def _compare(log: PublishedLog, tree: TileTree, level: int, index: int, width: int) -> None:
    expected = tree.tile_bytes(level, index, width)
    found = log.hashes(level, index)
    if found != expected:
        pairs = zip(_hashes_of(found), _hashes_of(expected), strict=True)
        wrong = next(number for number, (one, other) in enumerate(pairs) if one != other)
        what = f"entry {index * TILE_WIDTH + wrong}" if level == 0 else f"hash {wrong}"
        raise AuditError(f"{tile_path(level, index, width)}: {what} does not have its stated hash")


def _hashes_of(data: bytes) -> list[bytes]:
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def _leftovers(folder: Path, log: PublishedLog) -> Iterator[tuple[tuple[str, int, int], bytes]]:
    """Yield the partial files that lie wholly within the log but that it does not need."""
    for level in [ENTRIES, *(str(number) for number in range(levels(log.size)))]:
        root = folder / "tile" / level
        for path in sorted(root.rglob("*.p/*")):
            index, width = _parse_partial(path.relative_to(root))
            shift = 0 if level == ENTRIES else TILE_HEIGHT * int(level)
            if index * TILE_WIDTH + width > log.size >> shift:
                continue
            try:
                data = read_bounded(path, _LEFTOVER_MAX_BYTES)
            except FileNotFoundError:
                continue  # the live log has removed it in the meantime
            yield (level, index, width), data


def _parse_partial(path: Path) -> tuple[int, int]:
    digits = "".join(part.removeprefix("x").removesuffix(".p") for part in path.parts[:-1])
    if not digits.isdecimal() or not path.name.isdecimal():
        raise AuditError(f"tile/.../{path}: not the name of a tile")
    return int(digits), int(path.name)


def _check_leftover(log: PublishedLog, name: tuple[str, int, int], data: bytes) -> None:
    level, index, width = name
    if level == ENTRIES:
        expected = join_bundle(log.bundle(index)[:width])
    else:
        expected = log.hashes(int(level), index)[: width * HASH_BYTES]
    if data != expected:
        raise AuditError(f"{tile_path(level, index, width)} differs from the log")
