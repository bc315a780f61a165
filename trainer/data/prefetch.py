"""A bounded channel that one background thread fills and the caller empties.

The thread is a daemon and holds no reference to whoever reads, so a forgotten reader
ends it; `close` ends it at once and waits for it. An exception in the thread is raised
in the reader, once, after everything that was ready before it.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Channel(Generic[T]):
    """Values in order, at most `capacity` of them waiting."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = False
        self._closed = False

    def fill(self, source: Iterator[T]) -> None:
        """Run in the background until the source ends, fails, or the channel is closed."""
        try:
            for value in source:
                if not self._put(value):
                    return
        # Whatever it is, it belongs to the reader.
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, value: T) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._values) < self._capacity)
            if self._closed:
                return False
            self._values.append(value)
            self._changed.notify_all()
            return True

    def get(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._values or self._ended or self._closed)
            if self._values:
                value = self._values.popleft()
                self._changed.notify_all()
                return value
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._values.clear()
            self._changed.notify_all()


class Prefetch(Generic[T]):
    """An iterator that is computed ahead in one background thread.

    Args:
        source: what to iterate; it runs in the background thread alone.
        capacity: how many values may wait at one time.
        name: of the thread, for people who look at a stack dump.
    """

    def __init__(self, source: Iterator[T], *, capacity: int, name: str) -> None:
        self._channel: _Channel[T] = _Channel(capacity)
        self._thread = threading.Thread(
            target=self._channel.fill, args=(source,), name=name, daemon=True
        )
        self._finalizer = weakref.finalize(self, self._channel.close)
        self._thread.start()

    def __iter__(self) -> Prefetch[T]:
        return self

    def __next__(self) -> T:
        return self._channel.get()

    def close(self) -> None:
        """End the thread and wait for it; what was ready is dropped."""
        self._finalizer()
        self._thread.join()
