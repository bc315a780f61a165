"""When a dead worker may be started again: back-off with jitter, then a circuit breaker.

A pure state machine: the caller brings the clock, and the jitter comes from the
random source given. Nothing here sleeps or starts anything.

    closed ──crash──► closed, next start after base * 2^n (jittered, capped)
    closed ──limit crashes within the window──► open: no start for one window
    open ──window over──► half-open: one start is allowed
    half-open ──crash──► open again, for twice as long (capped)
    closed or half-open ──a whole window without a crash──► closed, all forgotten
"""

from __future__ import annotations

import enum
import random
from collections import deque
from dataclasses import dataclass

_MAX_OPEN_WINDOWS = 16


class BreakerState(enum.Enum):
    """Whether restarts are tried."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """How many crashes within how long, and how fast to try again. Seconds."""

    restart_limit: int
    window_seconds: float
    backoff_seconds: float
    backoff_max_seconds: float


class RestartBreaker:
    """Decides when to restart. All times are monotonic seconds given by the caller."""

    def __init__(self, limits: BreakerLimits, rng: random.Random | None = None) -> None:
        self._limits = limits
        # Jitter only spreads restarts in time; it guards nothing.
        self._random = rng or random.Random()  # noqa: S311
        self._crashes: deque[float] = deque()
        self._state = BreakerState.CLOSED
        self._open_windows = 1
        self._next_start = 0.0
        self._last_crash = 0.0

    @property
    def state(self) -> BreakerState:
        """The state after the last event."""
        return self._state

    def record_crash(self, now: float) -> None:
        """Count a crash, or a start that failed, and set when to try again."""
        self.settle(now)
        self._last_crash = now
        self._crashes.append(now)
        if self._state is BreakerState.HALF_OPEN:
            self._open_windows = min(self._open_windows * 2, _MAX_OPEN_WINDOWS)
            self._open(now)
        elif len(self._crashes) >= self._limits.restart_limit:
            self._open(now)
        else:
            exponent = len(self._crashes) - 1
            ceiling = min(
                self._limits.backoff_seconds * 2**exponent, self._limits.backoff_max_seconds
            )
            # Full jitter would allow an immediate retry; half keeps a floor.
            self._next_start = now + ceiling * (0.5 + self._random.random() / 2)

    def _open(self, now: float) -> None:
        self._state = BreakerState.OPEN
        self._next_start = now + self._limits.window_seconds * self._open_windows

    def settle(self, now: float) -> None:
        """Forget crashes that left the window; close again after a quiet window."""
        while self._crashes and now - self._crashes[0] > self._limits.window_seconds:
            self._crashes.popleft()
        if self._state is BreakerState.HALF_OPEN and self._quiet(now):
            self._state = BreakerState.CLOSED
            self._open_windows = 1

    def _quiet(self, now: float) -> bool:
        return now - max(self._last_crash, self._next_start) > self._limits.window_seconds

    def start_attempt(self, now: float) -> None:
        """Note that a start is tried now; out of OPEN this makes it the half-open trial."""
        if self._state is BreakerState.OPEN and now >= self._next_start:
            self._state = BreakerState.HALF_OPEN

    def delay(self, now: float) -> float:
        """Seconds until the next start may be tried; 0 when it may be tried now."""
        return max(0.0, self._next_start - now)
