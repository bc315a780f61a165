"""How often something may happen within a period. A pure counter: the caller brings the clock."""

from __future__ import annotations


class Allowance:
    """Takes up to `limit` events in a period of `period_seconds`; then a new one begins.

    The periods follow one another, so that twice the limit may fall into a stretch of
    one period's length; in exchange nothing is remembered but a number.
    """

    def __init__(self, limit: int, period_seconds: float) -> None:
        self._limit = limit
        self._period_seconds = period_seconds
        self._began = float("-inf")
        self._count = 0

    def take(self, now: float) -> bool:
        """Count an event at `now` (monotonic seconds); False when it is one too many."""
        if now - self._began >= self._period_seconds:
            self._began, self._count = now, 0
        self._count += 1
        return self._count <= self._limit
