"""Opening a log: the same steps after a clean end, a crash, or an error of the disk.

Recovery relies on no byte whose flush it has not seen succeed itself: after a
failed flush the kernel can show pages that the disk never got. So the last
segment, the only one that can hold such bytes, is written anew before anything
in it counts.

It refuses to go on, rather than to guess, when what it finds contradicts a
checkpoint that the log has signed: opening such a log would fork it.
"""

from __future__ import annotations

from security.audit.checkpoint import Checkpoint, verify_checkpoint
from security.audit.config import LogConfig
from security.audit.files import STAGING, Files, replace_file
from security.audit.merkle import tree_root
from security.audit.publication import CHECKPOINT, publish
from security.audit.segment import FOLDER, Segment, encode_header, parse_segment, segment_name
from security.audit.signer import LogSigner
from security.audit.store import LogStore
from security.audit.tiles import TILE_WIDTH, TileTree, tile_path
from security.errors import AuditError


def recover(
    files: Files, signer: LogSigner, config: LogConfig, witnessed: Checkpoint | None = None
) -> LogStore:
    """Open the log in a folder; the caller holds the folder's lock.

    Args:
        files: the folder.
        signer: the log's keys; the published checkpoint must be signed by them.
        config: limits.
        witnessed: a checkpoint known to have been signed, which the log must extend.

    Raises:
        AuditError: the log is damaged, or the disk fails.
    """
    try:
        return _recover(files, signer, config, witnessed)
    except OSError as error:
        raise AuditError(f"the audit log cannot be opened: {error.strerror or error}") from error


def _recover(
    files: Files, signer: LogSigner, config: LogConfig, witnessed: Checkpoint | None
) -> LogStore:
    # 1. Remove what an interrupted write left over. If we crash here, we do it again.
    for name in files.names(STAGING):
        files.remove(f"{STAGING}/{name}")
    # 2. Read the published checkpoint and the segments. This changes nothing.
    published = _published_checkpoint(files, signer)
    segments = _read_segments(files)
    if not segments:
        if (published and published.size) or (witnessed and witnessed.size):
            raise AuditError("the audit log's segments are missing; restore the whole folder")
        segments = [_first_segment(files)]
    # 3. Rebuild the tree: from full tiles below the oldest segment, then by replay.
    size = published.size if published else 0
    tail_start = size - size % TILE_WIDTH
    tree = TileTree(lambda level, index: files.read(tile_path(level, index)), config.cached_tiles)
    tail = _rebuild(tree, segments, tail_start)
    # 4. Refuse a log that lost or changed what a signed checkpoint covers.
    for known in (published, witnessed):
        if known is not None:
            _check_extends(tree, known)
    # 5. Rewrite the last segment without its torn tail. If we crash here, the old or
    # the new file is there, and both recover to the same durable entries.
    last = segments[-1]
    name = segment_name(last.first)
    replace_file(files, name, files.read(name)[: last.whole_bytes])
    # 6. Go on. From here the store is like one that never stopped.
    store = LogStore(files, signer, config, tree)
    store.segments = [segment.first for segment in segments]
    store.resume(size, tail_start, tail)
    store.continue_segment(last.first, last.whole_bytes)
    # 7. Publish what the projection lacks. If we crash here, the next recovery does it.
    try:
        if published is None or published.size != tree.size:
            publish(store)
    except BaseException:
        store.close()
        raise
    return store


def _published_checkpoint(files: Files, signer: LogSigner) -> Checkpoint | None:
    try:
        note = files.read(CHECKPOINT)
    except FileNotFoundError:
        return None
    checkpoint = verify_checkpoint(note, signer.keys).checkpoint
    if checkpoint.origin != signer.origin:
        raise AuditError(f"the audit log in this folder is {checkpoint.origin!r}, not ours")
    return checkpoint


def _read_segments(files: Files) -> list[Segment]:
    names = [f"{FOLDER}/{name}" for name in files.names(FOLDER)]
    segments: list[Segment] = []
    for name in names:
        segment = parse_segment(files.read(name), name, may_be_torn=name == names[-1])
        if name != segment_name(segment.first):
            raise AuditError(f"{name} is not named after its first entry, {segment.first}")
        if segments and segments[-1].end != segment.first:
            raise AuditError(f"the audit log lacks entries {segments[-1].end} to {segment.first}")
        segments.append(segment)
    return segments


def _first_segment(files: Files) -> Segment:
    header = encode_header(0)
    replace_file(files, segment_name(0), header)
    return Segment(0, [], [], len(header))


def _rebuild(tree: TileTree, segments: list[Segment], tail_start: int) -> list[bytes]:
    """Fill the tree; return the entries from `tail_start` on."""
    base = segments[0].first
    if base > tail_start:
        raise AuditError(
            "the published checkpoint is missing or older than the oldest segment; "
            "restore the whole folder"
        )
    tree.restore(base)
    tail: list[bytes] = []
    for segment in segments:
        tree.extend(segment.leaves)
        tail += segment.entries[max(0, tail_start - segment.first) :]
    return tail


def _check_extends(tree: TileTree, known: Checkpoint) -> None:
    if known.size > tree.size:
        raise AuditError(
            f"the audit log holds {tree.size} entries, but it has signed a checkpoint "
            f"over {known.size}: entries were lost; it is not opened, so that it does not fork"
        )
    if tree_root(tree, known.size) != known.root:
        raise AuditError(
            f"the audit log's first {known.size} entries are not those of its signed "
            "checkpoint; it is not opened, so that it does not fork"
        )
