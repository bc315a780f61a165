"""A bounded queue that hands out everything it holds, for group commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Queue(Generic[T]):
    """First in, first out; many producers, one consumer. Never blocks a producer."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._changed = Condition()
        self._closed = False

    def put(self, item: T) -> bool:
        """Add an item; False if the queue is full or closed."""
        with self._changed:
            if self._closed or len(self._items) >= self._limit:
                return False
            self._items.append(item)
            self._changed.notify()
            return True

    def take(
        self, most: int, most_bytes: int = 0, size_of: Callable[[T], int] | None = None
    ) -> list[T]:
        """Wait for items and return up to `most` of them, in order.

        Args:
            most: the largest number of items.
            most_bytes: with `size_of`, stop before this total, but after one item.
            size_of: the size of an item in bytes.

        Returns:
            At least one item; an empty list once the queue is closed and empty.
        """
        with self._changed:
            while not self._items and not self._closed:
                self._changed.wait()
            batch: list[T] = []
            total = 0
            while self._items and len(batch) < most:
                if size_of is not None:
                    total += size_of(self._items[0])
                    if batch and total > most_bytes:
                        break
                batch.append(self._items.popleft())
            return batch

    def close(self) -> None:
        """Take no more items; what is queued is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
