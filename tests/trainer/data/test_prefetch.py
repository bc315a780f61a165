"""The background thread: what it holds, when it ends, whose errors it carries."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator

import pytest

from trainer.data.prefetch import Prefetch

NAME = "casemate-test-prefetch"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def prefetch(source: Iterator[int], capacity: int = 2) -> Prefetch[int]:
    return Prefetch(source, capacity=capacity, name=NAME)


def test_values_come_in_order() -> None:
    assert list(prefetch(iter(range(100)))) == list(range(100))


def test_an_end_stays_an_end() -> None:
    ahead = prefetch(iter([1]))

    assert next(ahead) == 1
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(ahead)


def test_no_more_than_the_capacity_waits() -> None:
    made: list[int] = []
    beyond = threading.Event()

    def source() -> Iterator[int]:
        for value in itertools.count():
            made.append(value)
            if value == 3:
                beyond.set()
            yield value

    ahead = prefetch(source(), capacity=3)
    # Three wait and a fourth is in the thread's hand.
    assert beyond.wait(10)
    assert made == [0, 1, 2, 3]
    ahead.close()
    assert made == [0, 1, 2, 3]


def test_an_error_comes_after_what_was_ready() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    ahead = prefetch(source())

    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


def test_closing_ends_a_thread_that_waits_for_room() -> None:
    ahead = prefetch(itertools.count())
    assert next(ahead) == 0

    ahead.close()

    assert threads() == []
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()


def test_a_forgotten_reader_ends_its_thread() -> None:
    ahead = prefetch(itertools.count())
    assert next(ahead) == 0
    (thread,) = threads()

    del ahead
    gc.collect()

    thread.join(10)
    assert not thread.is_alive()


def test_the_thread_does_not_keep_the_process_alive() -> None:
    ahead = prefetch(itertools.count())

    assert all(thread.daemon for thread in threads())
    ahead.close()
