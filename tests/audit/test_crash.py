"""Every step of a workload, failed and crashed before, half-way and after.

The promises under test: an index that was given stays; a signed checkpoint stays
true (no fork); whatever the published checkpoint covers can be verified, even
before recovery; and after recovery the log goes on.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from security.audit.checkpoint import Checkpoint
from security.audit.config import LogConfig
from security.audit.merkle import tree_root
from security.audit.publication import publish
from security.audit.recovery import recover
from security.audit.store import LogStore
from security.audit.tiles import split_bundle
from security.audit.verify import verify_log
from security.errors import AuditError
from tests.audit.memory_files import Crash, Fault, MemoryFiles, Survival, When
from tests.audit.support import SIGNER, dump, entry_bytes

# Batches that cross a tile exactly, nearly and not at all; segments that rotate and go.
BATCHES = (3, 130, 123, 1, 40, 20)
CONFIG = LogConfig(segment_max_bytes=12_000)


@dataclass
class World:
    """What callers were told before the fault."""

    submitted: list[bytes] = field(default_factory=list)
    durable: int = 0
    signed: list[Checkpoint] = field(default_factory=list)


def workload(files: MemoryFiles, world: World) -> None:
    store = recover(files, SIGNER, CONFIG)
    for count in BATCHES:
        batch = [entry_bytes(len(world.submitted) + i) for i in range(count)]
        world.submitted += batch
        store.commit(batch)
        world.durable += count
        world.signed.append(store.checkpoint().checkpoint)
        if count != 1:
            publish(store)


@cache
def steps() -> tuple[str, ...]:
    files = MemoryFiles()
    workload(files, World())
    return tuple(files.log)


def run(fault: Fault) -> tuple[MemoryFiles, World]:
    files, world = MemoryFiles(fault), World()
    with pytest.raises(Crash if fault.crash else AuditError):
        workload(files, world)
    files.clear_fault()
    return files, world


def all_entries(store: LogStore) -> list[bytes]:
    found = []
    for start in range(0, store.size, 256):
        found += split_bundle(store.bundle(start // 256, min(256, store.size - start)))
    return found


def check(files: MemoryFiles, world: World, folder: Path) -> LogStore:
    # What is published holds as it is, before any recovery.
    shutil.rmtree(folder, ignore_errors=True)
    dump(files, folder)
    if (folder / "checkpoint").exists():
        verify_log(folder, SIGNER.keys)
    store = recover(files, SIGNER, CONFIG)
    assert store.size >= world.durable
    assert all_entries(store) == world.submitted[: store.size]
    for signed in world.signed:
        assert tree_root(store.tree, signed.size) == signed.root
    # It goes on, and the next opening finds everything again.
    assert store.commit([b"one more"]) == store.size - 1
    again = recover(files.survivor(Survival.LOST), SIGNER, CONFIG)
    assert again.size == store.size
    assert again.checkpoint().checkpoint.root == store.checkpoint().checkpoint.root
    return store


def test_the_workload_passes_every_kind_of_step() -> None:
    text = "\n".join(steps())
    for kind in (
        "append segments/",
        "fdatasync segments/",
        "rename checkpoint",
        "rename tile/0/000\n",
        "rename tile/entries/000\n",
        "rename tile/1/000.p/1",
        "remove tile/0/000.p/",
        "remove segments/",
    ):
        assert kind in text
    assert len(steps()) > 80


@pytest.mark.parametrize("survival", Survival)
@pytest.mark.parametrize("when", When)
def test_crash_at_every_step(when: When, survival: Survival, tmp_path: Path) -> None:
    for step in range(1, len(steps()) + 1):
        files, world = run(Fault(step, when, crash=True))
        check(files.survivor(survival), world, tmp_path / "log")


@pytest.mark.parametrize("when", When)
def test_error_at_every_step_then_recovery(when: When, tmp_path: Path) -> None:
    """The process lives on (or restarts) after a failed write or flush; then power is cut."""
    for step in range(1, len(steps()) + 1):
        files, world = run(Fault(step, when, crash=False))
        check(files, world, tmp_path / "log")


def test_power_cut_right_after_an_error(tmp_path: Path) -> None:
    for step in range(1, len(steps()) + 1):
        files, world = run(Fault(step, When.HALF, crash=False, error=errno.EIO))
        check(files.survivor(Survival.LOST), world, tmp_path / "log")


@pytest.mark.parametrize("survival", Survival)
def test_crash_in_every_step_of_recovery(survival: Survival, tmp_path: Path) -> None:
    for step in range(1, len(steps()) + 1, 9):
        files, world = run(Fault(step, When.HALF, crash=True))
        counting = files.survivor(survival)
        recover(counting, SIGNER, CONFIG)
        for second in range(1, counting.steps + 1):
            damaged = files.survivor(survival)
            damaged.set_fault(Fault(second, When.HALF, crash=True))
            with pytest.raises(Crash):
                recover(damaged, SIGNER, CONFIG)
            check(damaged.survivor(survival), world, tmp_path / "log")


def test_a_failed_flush_is_not_trusted_later() -> None:
    """The kernel shows bytes that the disk never got; recovery writes them anew."""
    step = next(i for i, name in enumerate(steps(), 1) if name.startswith("fdatasync"))
    files, world = run(Fault(step, When.BEFORE, crash=False, error=errno.EIO))
    store = recover(files, SIGNER, CONFIG)
    assert store.size == 3  # shown by the kernel, and whole
    after = recover(files.survivor(Survival.LOST), SIGNER, CONFIG)
    assert after.size == 3
    assert world.durable == 0


def test_a_broken_store_takes_nothing_more() -> None:
    files = MemoryFiles()
    store = recover(files, SIGNER, CONFIG)
    files.set_fault(Fault(files.steps + 1, When.BEFORE, crash=False))
    with pytest.raises(AuditError, match="cannot write"):
        store.commit([b"lost"])
    files.clear_fault()
    with pytest.raises(AuditError, match="stopped"):
        store.commit([b"refused"])
    with pytest.raises(AuditError, match="stopped"):
        publish(store)
    assert store.size == 0
