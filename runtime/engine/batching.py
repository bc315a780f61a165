"""One thread that turns waiting items into batches: the loop of the ONNX engines.

An item waits until there is a full batch, or until it has waited `max_delay_seconds`.
The delay is spent only when the batch before held several requests: a lone client is
never made to wait for company that does not come, and under load the time one batch
takes gathers the next.

What is put together is the engine's choice (`Batcher.choose`, pure); what is done with
it is `Batcher.run`. Cancelled and expired items are dropped before each choice, so a
cancel takes effect within one batch.

Invariants: `run` is called in the loop's thread alone; `submit`, `cancel` and `close`
are safe from any thread; at most `max_waiting` items wait.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from runtime.engine.errors import FailureReason

_IDLE = None


class Item(Protocol):
    """One unit of a batch; a request may consist of several."""

    @property
    def request_id(self) -> int:
        """The request it belongs to."""

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` after which it is not worth computing."""

    @property
    def arrived(self) -> float:
        """`time.monotonic()` when it was submitted."""


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may be, how long it may be waited for, and how much may wait."""

    max_batch: int = 32
    max_delay_seconds: float = 0.002
    max_waiting: int = 4096


class Batcher(Protocol[ItemT]):
    """What the loop asks of an engine. All calls come from the loop's thread."""

    def choose(self, waiting: list[ItemT], limit: int) -> list[ItemT]:
        """Pick at least one and at most `limit` items, the oldest (first) among them."""

    def run(self, batch: list[ItemT]) -> None:
        """Compute a batch and report its results; must not raise."""

    def drop(self, request_id: int, reason: FailureReason) -> None:
        """A request was cancelled or has expired: report it and forget it."""


class BatchLoop(Generic[ItemT]):
    """Gathers items and runs them batch by batch in a thread of its own."""

    def __init__(self, batcher: Batcher[ItemT], limits: BatchLimits, name: str) -> None:
        self._batcher = batcher
        self._limits = limits
        self._waiting: list[ItemT] = []
        self._cancelled: set[int] = set()
        self._running: frozenset[int] = frozenset()
        self._company = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, items: list[ItemT]) -> bool:
        """Add items of one request; False, adding none, when too many wait."""
        with self._changed:
            if self._closing or len(self._waiting) + len(items) > self._limits.max_waiting:
                return False
            self._waiting += items
            self._changed.notify_all()
            return True

    def cancel(self, request_id: int) -> None:
        """Drop what waits of a request; unknown ids are ignored."""
        with self._changed:
            known = any(item.request_id == request_id for item in self._waiting)
            if known or request_id in self._running:
                self._cancelled.add(request_id)
                self._changed.notify_all()

    def counts(self) -> tuple[int, int]:
        """Requests (running, waiting)."""
        with self._changed:
            waiting = {item.request_id for item in self._waiting} - self._running
            return len(self._running), len(waiting)

    @property
    def alive(self) -> bool:
        """Whether the thread is at work, or has done all that it was to do."""
        return self._closing or self._thread.is_alive()

    def drain(self) -> None:
        """Take nothing more, finish what waits, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _loop(self) -> None:
        while (batch := self._next()) is not _IDLE:
            if batch:
                self._batcher.run(batch)
            with self._changed:
                self._running = frozenset()

    def _next(self) -> list[ItemT] | None:
        """Wait for work; a batch, an empty list after only drops, None at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if not self._waiting:
                return _IDLE
            self._gather()
            dropped = self._sweep()
            batch: list[ItemT] = []
            if self._waiting:
                batch = self._batcher.choose(self._waiting, self._limits.max_batch)
                chosen = {id(item) for item in batch}
                self._waiting = [item for item in self._waiting if id(item) not in chosen]
                self._running = frozenset(item.request_id for item in batch)
                self._company = len(self._running) > 1
        for request_id, reason in dropped.items():
            self._batcher.drop(request_id, reason)
        return batch

    def _gather(self) -> None:
        """Wait for company, where there was some lately."""
        if not self._company:
            return
        until = self._waiting[0].arrived + self._limits.max_delay_seconds
        while len(self._waiting) < self._limits.max_batch and not self._closing:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _sweep(self) -> dict[int, FailureReason]:
        """Remove items of cancelled and expired requests; say why for each request."""
        now = time.monotonic()
        gone = dict.fromkeys(self._cancelled, FailureReason.CANCELLED)
        self._cancelled.clear()
        for item in self._waiting:
            if item.deadline is not None and item.deadline <= now:
                gone.setdefault(item.request_id, FailureReason.DEADLINE)
        if gone:
            self._waiting = [item for item in self._waiting if item.request_id not in gone]
        return gone
