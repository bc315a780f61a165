"""The store: verified bundles on disk, and which of them should be served.

What it refuses: a second process on the same folder, a version whose content
differs from what that version was before, a security epoch below the floor, and a
journal that knows lower epochs than the file beside the store (epochs.py).

Invariants, whatever is killed at whatever point:
- what the journal names is on disk, whole, as it was when it was verified;
- what is on disk and not in the journal is not in the store, and goes at open;
- a change is one journal record, so one sees all of it or none of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from runtime.store import epochs
from runtime.store.errors import StoreError, StoreLocked, io_error
from runtime.store.filesystem import FOLDER_MODE, Filesystem, RealFilesystem
from runtime.store.journal import Journal
from runtime.store.records import HEADER, encode_changes, replayed
from runtime.store.state import State, StoreState, VersionRecord, moved
from security.bundle.opening import VerifiedBundle

INCOMING_PREFIX = ".incoming-"
COPY_BYTES = 4 << 20
# Folders in incoming/ that nobody removed are dropped by a later open.
INCOMING_KEEP_SECONDS = 24 * 3600
# Installing the same content again leaves a version in these states alone.
_KEPT = frozenset({State.PROBING, State.LIVE, State.PREVIOUS, State.RETIRED})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Store:
    """An open store. Thread safe; every method may block on the disk."""

    def __init__(
        self,
        *,
        folder: Path,
        lock: int,
        journal: Journal,
        state: StoreState,
        filesystem: Filesystem,
        clock: Callable[[], int],
    ) -> None:
        self.folder = folder
        self._lock: int | None = lock
        self._journal = journal
        self._state = state
        self._filesystem = filesystem
        self._clock = clock
        self._mutex = threading.RLock()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        filesystem: Filesystem | None = None,
        clock: Callable[[], int] = _now_ms,
    ) -> Store:
        """Open a store, creating an empty one in an empty or missing folder.

        Args:
            folder: the store's own folder; created with mode 0700.
            filesystem: for tests that cut the power.
            clock: milliseconds since the Unix epoch.

        Raises:
            StoreLocked: another process has it open.
            JournalDamaged: its state cannot be trusted.
            StoreError: it cannot be read or written, or its epochs went back.
        """
        filesystem = filesystem or RealFilesystem()
        try:
            for path in (folder, folder / "bundles", folder / "incoming"):
                path.mkdir(
                    mode=0o700 if path == folder else FOLDER_MODE, parents=True, exist_ok=True
                )
        except OSError as error:
            raise io_error("cannot create", folder, error) from error
        lock = _take_lock(folder)
        try:
            journal, found = Journal.open(folder / "journal", filesystem)
            try:
                state = replayed(folder / "journal", found.records)
                epochs.check(epochs.path_beside(folder), state.floors)
                store = cls(
                    folder=folder,
                    lock=lock,
                    journal=journal,
                    state=state,
                    filesystem=filesystem,
                    clock=clock,
                )
                store._recover(first=not found.records)
                # If we crashed after a promotion and before this was written down.
                epochs.remember(epochs.path_beside(folder), state.floors)
            except BaseException:
                journal.close()
                raise
        except BaseException:
            os.close(lock)
            raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the store back; a second call does nothing."""
        with self._mutex:
            self._journal.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @property
    def incoming(self) -> Path:
        """Where unverified bundles wait to be looked at."""
        return self.folder / "incoming"

    @property
    def state(self) -> StoreState:
        """The present state; immutable, so it may be read at leisure."""
        return self._state

    def versions(self, name: str | None = None) -> tuple[VersionRecord, ...]:
        """Return the versions of one model, or of all, newest state change first."""
        if name is not None:
            return self._state.of(name)
        names = sorted({key[0] for key in self._state.versions})
        return tuple(record for each in names for record in self._state.of(each))

    def get(self, name: str, version: str) -> VersionRecord:
        """Return one version.

        Raises:
            StoreError: reason "unknown-version".
        """
        record = self._state.versions.get((name, version))
        if record is None:
            raise StoreError("unknown-version", f"{name} {version} is not in the store")
        return record

    def floor(self, name: str) -> int:
        """Return the lowest security epoch that may still go live for this model."""
        return self._state.floors.get(name, 0)

    def path_of(self, record: VersionRecord) -> Path:
        """Return the folder of a version's bundle."""
        return self.folder / "bundles" / record.folder

    def stage(self, bundle: VerifiedBundle, *, awaiting_start: bool = False) -> VersionRecord:
        """Copy a verified bundle in, and journal it as staged.

        The copy is made from the memory files that were verified, never from the
        source again. The same content twice is no error: a version that is in the
        store keeps its state, except that a failed one may be tried again.

        Raises:
            StoreError: "disk-full" or "io" (nothing changed), "version-exists",
                "epoch-too-low", "transition" (revoked).
        """
        manifest = bundle.manifest
        with self._mutex:
            record = VersionRecord(
                name=manifest.name,
                version=manifest.version,
                digest=bundle.digest,
                signer=bundle.signer,
                task=manifest.task,
                security_epoch=manifest.security_epoch,
                state=State.STAGED,
                reason="waits for the appliance to start" if awaiting_start else "installed",
                since_ms=self._clock(),
                awaiting_start=awaiting_start,
            )
            self._refuse_old_epoch(record)
            present = self._state.versions.get(record.key)
            if present and present.digest == record.digest and present.state in _KEPT:
                return present
            after = self._state.apply([record])  # refuses before anything is copied
            target = self.path_of(record)
            if present is not None and present.state is State.FAILED:
                self._discard(target)  # what failed may have been the copy on this disk
            copied = not target.exists()
            try:
                if copied:
                    self._copy_in(bundle, target)
                # If we crash here: a whole folder that no record names; open removes it.
                self._journal.append(encode_changes([record]))
            except StoreError:
                if copied and present is None:
                    self._discard(target)
                raise
            self._state = after
            return record

    def move(
        self, *moves: tuple[VersionRecord, State, str], awaiting_start: bool = False
    ) -> StoreState:
        """Move versions to new states, all in one durable step.

        Args:
            moves: (version, its next state, the reason for a person).
            awaiting_start: for moves to staged: whether the next start promotes it.

        Raises:
            StoreError: an invariant would break, or the journal cannot be written.
        """
        with self._mutex:
            now = self._clock()
            changes = [
                moved(
                    self.get(record.name, record.version),
                    state,
                    reason,
                    now,
                    awaiting_start=awaiting_start and state is State.STAGED,
                )
                for record, state, reason in moves
            ]
            after = self._state.apply(changes)
            self._journal.append(encode_changes(changes))
            raised = after.floors != self._state.floors
            self._state = after
            if raised:
                # The journal holds it already, and the next open writes what fails here.
                with contextlib.suppress(StoreError):
                    epochs.remember(epochs.path_beside(self.folder), after.floors)
            return after

    def _refuse_old_epoch(self, record: VersionRecord) -> None:
        floor = self.floor(record.name)
        if record.security_epoch < floor:
            raise StoreError(
                "epoch-too-low",
                f"{record.name} {record.version} has security epoch {record.security_epoch}, "
                f"below {floor}, the highest that was live here",
            )

    def _copy_in(self, bundle: VerifiedBundle, target: Path) -> None:
        """Write a bundle below a temporary name, make it durable, give it its name."""
        bundles = self.folder / "bundles"
        staging = bundles / f"{INCOMING_PREFIX}{secrets.token_hex(8)}"
        try:
            self._filesystem.make_folder(staging)
            folders = {staging}
            for name, verified in sorted(bundle.files.items()):
                self._make_parents(staging, name, folders)
                self._write_file(staging / name, _blocks(verified.fd, verified.size_bytes))
            for name, content in sorted(bundle.signatures.items()):
                self._write_file(staging / name, [content])
            for folder in sorted(folders, reverse=True):
                self._filesystem.sync_folder(folder)
            # If we crash before this rename: an .incoming- folder; open removes it.
            if not target.parent.exists():
                self._filesystem.make_folder(target.parent)
                self._filesystem.sync_folder(bundles)
            self._filesystem.rename(staging, target)
            self._filesystem.sync_folder(target.parent)
        except OSError as error:
            self._discard(staging)
            self._discard(target)
            raise io_error("cannot copy the bundle to", bundles, error) from error

    def _make_parents(self, staging: Path, name: str, folders: set[Path]) -> None:
        path = staging
        for part in name.split("/")[:-1]:
            path = path / part
            if path not in folders:
                self._filesystem.make_folder(path)
                folders.add(path)

    def _write_file(self, path: Path, blocks: Iterable[bytes]) -> None:
        descriptor = self._filesystem.create(path)
        try:
            for block in blocks:
                self._filesystem.write(descriptor, block)
            self._filesystem.sync_file(descriptor)
        finally:
            self._filesystem.close(descriptor)

    def _discard(self, path: Path) -> None:
        """Remove a folder of ours if it is there; what stays is removed at open."""
        if path.exists():
            try:
                self._filesystem.remove_tree(path)
            except OSError:
                return

    def _recover(self, *, first: bool) -> None:
        """Bring journal and disk together; runs the same after a crash and after a stop."""
        if first:
            self._journal.append(HEADER)
        self._drop_orphans()
        missing = [record for record in self.versions() if not self.path_of(record).is_dir()]
        gone = [record for record in missing if record.state is not State.REVOKED]
        if gone:
            names = ", ".join(f"{record.name} {record.version}" for record in gone)
            raise StoreError(
                "io", f"{self.folder}: the bundle of {names} is missing from the store"
            )
        for record in self.versions():
            if record.state is State.PROBING:
                self.move((record, State.STAGED, "its probing was interrupted"))

    def _drop_orphans(self) -> None:
        """Remove folders that no record names, and incoming ones that were left behind."""
        known = {self.path_of(record) for record in self.versions()}
        for model in (self.folder / "bundles").iterdir():
            if model.name.startswith(INCOMING_PREFIX):
                self._discard(model)
                continue
            for version in model.iterdir() if model.is_dir() else ():
                if version not in known:
                    self._discard(version)
        oldest = time.time() - INCOMING_KEEP_SECONDS
        for folder in self.incoming.iterdir():
            if folder.is_dir() and not folder.is_symlink() and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _take_lock(folder: Path) -> int:
    try:
        descriptor = os.open(
            folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise io_error("cannot open", folder / "lock", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreLocked(folder) from error
    return descriptor


def _blocks(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    """Yield a sealed memory file's bytes; it cannot change while we read."""
    offset = 0
    while offset < size_bytes:
        block = os.pread(descriptor, min(COPY_BYTES, size_bytes - offset), offset)
        if not block:
            raise StoreError("io", "a verified file ended before its verified size")
        offset += len(block)
        yield block
