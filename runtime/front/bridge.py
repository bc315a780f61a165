"""From the log's threads to the event loop, many results with one wake-up.

`asyncio.wrap_future` wakes the loop once for every future; each wake-up is a system
call on either side, after which the loop's thread has to win the interpreter lock
back. A group commit resolves dozens of futures at once: here they share a wake-up.

Invariant: every future that was wrapped is resolved in the loop, in the order in
which the threads resolved them; cancelling the loop's future never reaches the log.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class Bridge:
    """Carries results to the loop that first used it. `wrap` belongs to that loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = Lock()
        self._arrived: deque[tuple[asyncio.Future[Any], concurrent.futures.Future[Any]]] = deque()
        self._woken = False

    def wrap(self, source: concurrent.futures.Future[T]) -> asyncio.Future[T]:
        """Return a future of the loop that gets the result of `source`."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        target: asyncio.Future[T] = loop.create_future()
        source.add_done_callback(lambda done: self._arrive(loop, target, done))
        # A failure that nobody waits for any more is the log's to report, not asyncio's.
        target.add_done_callback(_seen)
        return target

    def _arrive(
        self,
        loop: asyncio.AbstractEventLoop,
        target: asyncio.Future[Any],
        source: concurrent.futures.Future[Any],
    ) -> None:
        """Note a result; called in the thread that resolved it."""
        with self._lock:
            self._arrived.append((target, source))
            wake = not self._woken
            self._woken = True
        if wake and not loop.is_closed():
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            arrived = list(self._arrived)
            self._arrived.clear()
            self._woken = False
        for target, source in arrived:
            if target.done():
                continue
            error = source.exception()
            if error is not None:
                target.set_exception(error)
            else:
                target.set_result(source.result())


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
