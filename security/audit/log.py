"""AuditLog: the log as the appliance uses it: threads, group commit, futures.

Three threads, so that no caller ever waits for the disk or for a signature:

- the writer takes everything that is queued, commits it with one flush, and
  resolves the futures. While it flushes, the next batch gathers: that is what
  makes thousands of durable entries a second out of a few hundred flushes.
- the publisher brings the public tree up to date, every second or earlier.
- the prover answers `receipt_for`; all receipts that wait share one signature.

It refuses appends after any error of the disk, and says why in `failure`, until
`probe_recovery` has run the whole recovery again with success. Receipts for
entries that are durable are still given: they need memory and keys only.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import TypeVar

from security.audit import merkle
from security.audit.batching import Queue
from security.audit.config import ENTRY_MAX_BYTES, LogConfig
from security.audit.files import Files, FolderLock, RealFiles
from security.audit.proof import InclusionProof
from security.audit.publication import publish
from security.audit.recovery import recover
from security.audit.signer import LogSigner
from security.audit.store import LogStore
from security.audit.tiles import TILE_WIDTH
from security.errors import AuditError, UsageError

T = TypeVar("T")


class AuditLog:
    """An append-only transparency log in a folder. Every method is thread-safe."""

    def __init__(
        self, files: Files, signer: LogSigner, config: LogConfig, lock: FolderLock | None
    ) -> None:
        self._files = files
        self._signer = signer
        self._config = config
        self._folder_lock = lock
        self._failure = ""
        self._store = recover(files, signer, config)
        self._appends: Queue[tuple[bytes, Future[int]]] = Queue(config.queue_max_entries)
        self._proofs: Queue[tuple[int, Future[InclusionProof]]] = Queue(config.queue_max_entries)
        # Held while the store is written to: by the writer, the publisher, the recovery.
        self._commit_lock = Lock()
        self._publish_lock = Lock()
        self._wake_publisher = Condition()
        self._closing = False
        self._threads = [
            Thread(target=self._write, name="audit-writer", daemon=True),
            Thread(target=self._publish, name="audit-publisher", daemon=True),
            Thread(target=self._prove, name="audit-prover", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def open(
        cls,
        folder: Path,
        signer: LogSigner,
        *,
        config: LogConfig | None = None,
        files: Files | None = None,
    ) -> AuditLog:
        """Lock the folder, recover what is durable, and start the threads.

        Args:
            folder: the log's folder; made if missing.
            signer: the log's keys.
            config: limits.
            files: another file layer, for tests of faults.

        Raises:
            AuditError: another process has the log open, it is damaged, it contradicts
                a checkpoint that it signed, or the disk fails.
        """
        try:
            lock = FolderLock(folder)
        except OSError as error:
            raise AuditError(
                f"the audit log {folder} cannot be opened: {error.strerror or error}"
            ) from error
        try:
            return cls(files or RealFiles(folder), signer, config or LogConfig(), lock)
        except BaseException:
            lock.release()
            raise

    # Appending

    def append(self, entry: bytes) -> Future[int]:
        """Queue an entry.

        Returns:
            A future of the entry's index, resolved once the entry is durable. It fails
            with AuditError when the log refuses, or when the disk failed; in the latter
            case the entry may or may not be in the log after recovery. It cannot be
            cancelled: what is queued is logged.

        Raises:
            UsageError: the entry is empty or longer than 65,535 bytes.
        """
        if not 1 <= len(entry) <= ENTRY_MAX_BYTES:
            raise UsageError(f"an audit entry has 1 to {ENTRY_MAX_BYTES} bytes, not {len(entry)}")
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()
        if self._failure:
            future.set_exception(self._refusal())
        elif not self._appends.put((entry, future)):
            future.set_exception(AuditError("the audit log is closed, or its queue is full"))
        return future

    def receipt_for(self, index: int) -> Future[InclusionProof]:
        """Give the proof that a durable entry is in the log, under a signed checkpoint.

        The proof is checked before it is given. The future fails with UsageError when
        there is no such entry yet, with AuditError when the log's files are damaged.
        """
        future: Future[InclusionProof] = Future()
        future.set_running_or_notify_cancel()
        if not self._proofs.put((index, future)):
            future.set_exception(AuditError("the audit log is closed, or its queue is full"))
        return future

    # Reading

    def checkpoint(self) -> bytes:
        """Return the newest checkpoint (a signed note); signs when there are new entries."""
        return self._store.checkpoint().note

    def prove_inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the audit path of an entry among the first `size` durable entries.

        Raises:
            UsageError: the size is not durable yet, or the index not below it.
            AuditError: a tile is damaged or cannot be read.
        """
        self._check_size(size)
        return _reading(lambda: merkle.prove_inclusion(self._store.tree, index, size))

    def prove_consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the first `new` entries extend the first `old`.

        Raises:
            UsageError: old > new, or `new` is not durable yet.
            AuditError: a tile is damaged or cannot be read.
        """
        self._check_size(new)
        return _reading(lambda: merkle.prove_consistency(self._store.tree, old, new))

    def tile(self, level: int, index: int, width: int = TILE_WIDTH) -> bytes:
        """Return the first `width` hashes of a tile, 32 bytes each.

        Raises:
            UsageError: it does not exist (yet).
            AuditError: the tile is damaged or cannot be read.
        """
        return _reading(lambda: self._store.tree.tile_bytes(level, index, width))

    def entries(self, index: int, width: int = TILE_WIDTH) -> bytes:
        """Return the first `width` entries of a bundle, each behind its uint16 length.

        Raises:
            UsageError: they do not exist (yet).
            AuditError: the bundle is damaged or cannot be read.
        """
        return _reading(lambda: self._store.bundle(index, width))

    @property
    def size(self) -> int:
        """The number of durable entries."""
        return self._store.size

    def _check_size(self, size: int) -> None:
        if size > self._store.size:
            raise UsageError(f"the log has {self._store.size} entries, not {size}")

    # Health

    @property
    def healthy(self) -> bool:
        """Whether appends are taken."""
        return not self._failure

    @property
    def failure(self) -> str:
        """Why appends are refused; "" while they are taken."""
        return self._failure

    def probe_recovery(self) -> bool:
        """After a failure, run the whole recovery; tell whether the log is healthy now.

        Blocks while it reads and writes up to a segment. Nothing of the failed state
        is used but the newest signed checkpoint, which the recovered log must extend.
        """
        with self._commit_lock, self._publish_lock:
            if not self._failure or self._closing:
                return not self._failure
            old = self._store
            witnessed = old.signed.checkpoint if old.signed else None
            old.close()
            try:
                self._store = recover(self._files, self._signer, self._config, witnessed)
            except AuditError as error:
                self._failure = str(error)
                return False
            self._failure = ""
            return True

    def close(self) -> None:
        """Write what is queued, publish, stop the threads and give the lock back."""
        self._appends.close()
        self._proofs.close()
        with self._wake_publisher:
            self._closing = True
            self._wake_publisher.notify_all()
        for thread in self._threads:
            thread.join()
        if not self._failure:
            self._publish_once()
        self._store.close()
        if self._folder_lock is not None:
            self._folder_lock.release()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Threads

    def _write(self) -> None:
        while batch := self._appends.take(
            self._config.batch_max_entries,
            self._config.batch_max_bytes,
            lambda item: len(item[0]),
        ):
            try:
                with self._commit_lock:
                    if self._failure:
                        raise self._refusal()
                    first = self._store.commit([entry for entry, _ in batch])
            except Exception as error:
                self._fail(error)
                for _, future in batch:
                    future.set_exception(self._refusal())
                continue
            for index, (_, future) in enumerate(batch, first):
                future.set_result(index)
            self._keep_pace()

    def _keep_pace(self) -> None:
        """Wake the publisher when enough has gathered; wait for it when far too much has."""
        waiting = self._store.size - self._store.published
        if waiting >= self._config.publish_max_entries:
            with self._wake_publisher:
                self._wake_publisher.notify_all()
        if waiting >= self._config.unpublished_max_entries:
            self._publish_once()

    def _publish(self) -> None:
        while True:
            with self._wake_publisher:
                if not self._closing:
                    self._wake_publisher.wait(self._config.publish_interval_seconds)
                if self._closing:
                    return
            self._publish_once()

    def _publish_once(self) -> None:
        with self._publish_lock:
            store = self._store
            if self._failure or store.published == store.size:
                return
            try:
                publish(store)
            except Exception as error:
                self._fail(error)

    def _prove(self) -> None:
        while batch := self._proofs.take(self._config.batch_max_entries):
            for index, future in batch:
                try:
                    future.set_result(self._proof(self._store, index))
                except (AuditError, UsageError) as error:
                    future.set_exception(error)
                except Exception as error:
                    future.set_exception(AuditError(f"the audit log cannot be read: {error}"))

    def _proof(self, store: LogStore, index: int) -> InclusionProof:
        if not 0 <= index < store.size:
            raise UsageError(f"the log has no entry {index} yet")
        # The first of a batch signs for all that are durable by then.
        signed = store.covering(index)
        head = signed.checkpoint
        path = merkle.prove_inclusion(store.tree, index, head.size)
        # A damaged tile must not become a receipt that its holder cannot use.
        merkle.verify_inclusion(index, head.size, store.tree.node(0, index), path, head.root)
        return InclusionProof(index, tuple(path), signed.note)

    def _fail(self, error: Exception) -> None:
        if not self._failure:
            self._failure = str(error) or type(error).__name__

    def _refusal(self) -> AuditError:
        return AuditError(f"the audit log refuses entries: {self._failure}")


def _reading(read: Callable[[], T]) -> T:
    """Run a reading call; an error of the disk becomes an AuditError."""
    try:
        return read()
    except OSError as error:
        raise AuditError(f"the audit log cannot be read: {error.strerror or error}") from error
