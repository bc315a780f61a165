"""The Pareto front: the candidates that nothing else beats in speed and in quality at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def pareto_front(
    items: Sequence[T], speed: Callable[[T], float], loss: Callable[[T], float]
) -> list[T]:
    """Return the items that no other beats, by rising loss and rising speed.

    An item is beaten by one that is at least as fast and loses no more, and is better in
    one of the two; of two that are equal in both the first stays.

    Args:
        items: what to judge.
        speed: of an item, larger is better.
        loss: of an item, smaller is better.
    """
    ordered = sorted(enumerate(items), key=lambda one: (loss(one[1]), -speed(one[1]), one[0]))
    front: list[T] = []
    best = float("-inf")
    for _, item in ordered:
        if speed(item) > best:
            front.append(item)
            best = speed(item)
    return front
