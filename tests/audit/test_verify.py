"""Thousands of tamperings with a published log: every one is found and named."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from security.audit.checkpoint import Checkpoint
from security.audit.config import LogConfig
from security.audit.note import VerifierKey
from security.audit.publication import publish
from security.audit.published import PublishedLog
from security.audit.recovery import recover
from security.audit.tiles import join_bundle, split_bundle
from security.audit.verify import verify_log
from security.errors import AuditError
from tests.audit.memory_files import MemoryFiles
from tests.audit.support import ORIGIN, SIGNER, dump, entry_bytes, make_signer

SIZE = 300
HELD_SIZE = 280
FLIPS_PER_FILE = 160


@cache
def published() -> tuple[dict[str, bytes], bytes]:
    """The public files of a log of 300 entries, and a checkpoint held since entry 280."""
    files = MemoryFiles()
    store = recover(files, SIGNER, LogConfig())
    store.commit([entry_bytes(number) for number in range(HELD_SIZE)])
    publish(store)
    held = store.checkpoint().note
    store.commit([entry_bytes(number) for number in range(HELD_SIZE, SIZE)])
    publish(store)
    contents = files.contents()
    return {n: data for n, data in contents.items() if not n.startswith("segments")}, held


@pytest.fixture
def log(tmp_path: Path) -> Path:
    for name, data in published()[0].items():
        path = tmp_path / "log" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "log"


def refused(folder: Path, keys: tuple[VerifierKey, ...] = SIGNER.keys) -> str:
    with pytest.raises(AuditError) as caught:
        verify_log(folder, keys, held=published()[1])
    return str(caught.value)


def test_an_honest_log_is_accepted(log: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify_log(
        log,
        SIGNER.keys,
        held=published()[1],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert report.entries == SIZE
    assert report.held is not None
    assert report.held.checkpoint.size == HELD_SIZE
    assert seen == [(256, SIZE), (SIZE, SIZE)]
    assert verify_log(log, SIGNER.keys).held is None


def test_every_kind_of_file_is_there() -> None:
    assert set(published()[0]) == {
        "checkpoint",
        "tile/0/000",
        "tile/0/001.p/24",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/24",
        "tile/entries/001.p/44",
    }


@pytest.mark.parametrize("name", sorted(published()[0]))
def test_every_flipped_bit_is_found(name: str, log: Path) -> None:
    source = random.Random(name)
    data = published()[0][name]
    for _ in range(FLIPS_PER_FILE):
        position = source.randrange(len(data))
        damaged = bytearray(data)
        damaged[position] ^= 1 << source.randrange(8)
        (log / name).write_bytes(damaged)
        refused(log)


@pytest.mark.parametrize("name", sorted(published()[0]))
def test_cut_longer_empty_or_missing_files_are_found(name: str, log: Path) -> None:
    source = random.Random(name)
    data = published()[0][name]
    cuts = [data[: source.randrange(1, len(data))] for _ in range(40)]
    for bad in (b"", data[:-1], data + b"\0", data + data[-32:], data + data, *cuts):
        (log / name).write_bytes(bad)
        refused(log)
    (log / name).unlink()
    if name.endswith("p/24"):
        verify_log(log, SIGNER.keys)  # a left-over of an earlier size; nothing needs it
    else:
        refused(log)


def rewritten(entries: list[bytes], source: random.Random) -> Iterator[list[bytes]]:
    """Lists of entries that differ from the true one, by whole entries."""
    while True:
        one, other = sorted(source.sample(range(len(entries)), 2))
        yield [*entries[:one], *entries[one + 1 :]]
        yield [
            *entries[:one],
            entries[other],
            *entries[one + 1 : other],
            entries[one],
            *entries[other + 1 :],
        ]
        yield [*entries[:one], entry_bytes(10**6), *entries[one + 1 :]]
        yield [*entries[:one], entry_bytes(10**6), *entries[one:]]
        yield [*entries[:one], entries[one], *entries[one:]]


def test_removed_reordered_replaced_and_added_entries_are_found(log: Path) -> None:
    source = random.Random(3)
    for name in ("tile/entries/000", "tile/entries/001.p/44"):
        entries = split_bundle(published()[0][name])
        for bad, _ in zip(rewritten(entries, source), range(250), strict=False):
            (log / name).write_bytes(join_bundle(bad))
            message = refused(log)
            assert "tile/" in message
        (log / name).write_bytes(published()[0][name])


def forge(entries: list[bytes], folder: Path) -> None:
    """What someone with the log's own keys can do: a whole new log, rightly signed."""
    files = MemoryFiles()
    store = recover(files, SIGNER, LogConfig())
    store.commit(entries)
    publish(store)
    shutil.rmtree(folder)
    dump(files, folder)


def test_a_log_rewritten_with_its_own_keys_is_found_by_a_held_checkpoint(log: Path) -> None:
    true = [entry_bytes(number) for number in range(SIZE)]
    source = random.Random(4)
    for bad, _ in zip(rewritten(true, source), range(25), strict=False):
        forge(bad, log)
        changed_before_held = bad[:HELD_SIZE] != true[:HELD_SIZE]
        verify_log(log, SIGNER.keys)
        if changed_before_held:
            assert "rewritten" in refused(log)
        else:
            verify_log(log, SIGNER.keys, held=published()[1])


@pytest.mark.parametrize("size", [1, 255, 256, HELD_SIZE - 1])
def test_a_log_cut_with_its_own_keys_is_found_by_a_held_checkpoint(size: int, log: Path) -> None:
    forge([entry_bytes(number) for number in range(size)], log)
    assert verify_log(log, SIGNER.keys).entries == size
    assert "was cut" in refused(log)


def test_held_checkpoint_must_be_genuine_and_of_this_log(log: Path) -> None:
    held = published()[1]
    with pytest.raises(AuditError, match="held checkpoint is not acceptable"):
        verify_log(log, SIGNER.keys, held=held.replace(b"280", b"281"))
    other = make_signer("example.com/other")
    with pytest.raises(AuditError, match="belongs to another log"):
        verify_log(log, (*SIGNER.keys, *other.keys), held=other.sign(1, bytes(32)).note)
    with pytest.raises(AuditError, match="checkpoint"):
        verify_log(log, make_signer().keys)


def test_a_signed_root_over_other_entries_is_found(log: Path) -> None:
    (log / "checkpoint").write_bytes(SIGNER.sign(SIZE, bytes(32)).note)
    assert "root hash is not that of" in refused(log)


def test_entries_that_are_no_entries_are_found(log: Path) -> None:
    forge([b'{"format":"casemate.audit/1", "kind":"denied"}'], log)
    with pytest.raises(AuditError, match="entry 0"):
        verify_log(log, SIGNER.keys)


def test_the_finding_is_named(log: Path) -> None:
    entries = split_bundle(published()[0]["tile/entries/000"])
    entries[77] = entry_bytes(5)
    (log / "tile/entries/000").write_bytes(join_bundle(entries))
    assert "entry 77" in refused(log)
    (log / "tile/entries/000").unlink()
    assert "tile/entries/000 is missing" in refused(log)


def test_files_beyond_the_checkpoint_and_strange_names(log: Path) -> None:
    beyond = log / "tile/entries/001.p/45"
    beyond.write_bytes(b"a publication that was cut short")
    verify_log(log, SIGNER.keys)
    beyond.rename(beyond.with_name("abc"))
    assert "not the name of a tile" in refused(log)


def test_a_reader_beside_a_live_log_takes_the_full_tile(log: Path) -> None:
    files = MemoryFiles()
    store = recover(files, SIGNER, LogConfig())
    store.commit([entry_bytes(number) for number in range(200)])
    publish(store)
    dump(files, log.parent / "live")
    reader = PublishedLog(log.parent / "live", SIGNER.keys)
    store.commit([entry_bytes(number) for number in range(200, 256)])
    publish(store)
    shutil.rmtree(log.parent / "live")
    dump(files, log.parent / "live")
    assert [entry for _, entry in reader.entries(198)] == [entry_bytes(198), entry_bytes(199)]
    assert reader.prove(150).index == 150
    assert reader.root(200) == reader.head.checkpoint.root


def test_an_empty_log_verifies(tmp_path: Path) -> None:
    files = MemoryFiles()
    recover(files, SIGNER, LogConfig())
    dump(files, tmp_path / "log")
    report = verify_log(tmp_path / "log", SIGNER.keys)
    assert report.entries == 0
    assert report.head.checkpoint == Checkpoint(ORIGIN, 0, report.head.checkpoint.root)
