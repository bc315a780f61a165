"""The time a search may take, and how long the rest of it will.

Each kind of step is expected to take what it took on average so far. The estimate is of
what is known to be left; candidates that are found later make it longer, and the budget
bounds it.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from compiler.errors import SearchError
from compiler.progress import Progress

_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Return the seconds that `90s`, `20m` or `1.5h` stand for.

    Raises:
        SearchError: it is no such duration, or zero.
    """
    match = _DURATION.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise SearchError("a budget is a duration such as 90s, 20m or 1.5h")
    return float(match[1]) * _SECONDS[match[2]]


class OutOfTimeError(Exception):
    """A step has used up its stage's share of the budget."""


class Clock:
    """Counts the time of a search from when it is made."""

    def __init__(self, budget_seconds: float | None) -> None:
        self._started = time.monotonic()
        self._budget = budget_seconds
        self._prepared = 0.0
        self._taken: defaultdict[str, list[float]] = defaultdict(list)

    @property
    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self._started

    def prepared(self) -> None:
        """Begin the stages: shares of the budget are shares of what is left of it now."""
        self._prepared = self.elapsed

    def allows(self, share: float, seconds: float = 0.0) -> bool:
        """Tell whether a step of `seconds` ends within a share of the budget."""
        if self._budget is None:
            return True
        left = max(0.0, self._budget - self._prepared)
        return self.elapsed - self._prepared + seconds <= share * left

    def bounded(self, progress: Progress, share: float) -> Progress:
        """Return a progress that ends a step, by OutOfTimeError, once a share is used up."""

        def told(label: str, fraction: float) -> None:
            if not self.allows(share):
                raise OutOfTimeError
            progress(label, fraction)

        return told

    def expected(self, kind: str) -> float:
        """Return how long a step of a kind will take; 0 before there was one."""
        taken = self._taken[kind]
        return sum(taken) / len(taken) if taken else 0.0

    @contextmanager
    def step(self, kind: str) -> Iterator[None]:
        """Count the time of one step that ends well."""
        started = time.monotonic()
        yield
        self._taken[kind].append(time.monotonic() - started)

    def left(self, steps: Mapping[str, int]) -> float:
        """Return the seconds that steps will take, by kind, within the budget."""
        wanted = sum(count * self.expected(kind) for kind, count in steps.items())
        if self._budget is None:
            return wanted
        return min(wanted, max(0.0, self._budget - self.elapsed))
