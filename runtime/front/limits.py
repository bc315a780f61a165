"""How much each principal, and all together, may ask for now.

Token buckets that fill continuously: a principal who used up a minute's allowance
gets it back over the next minute, and is told how long to wait. Tokens are reserved
by estimate before the work and settled by the real count after it.

Invariant: what is remembered is bounded; a principal is forgotten only when its
buckets are full and it has no call running, so that forgetting changes nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from runtime.front.errors import exhausted
from runtime.policy.model import RoleLimits

MAX_REMEMBERED_PRINCIPALS = 10_000
_CONCURRENCY_RETRY_SECONDS = 0.5


@dataclass(slots=True)
class Bucket:
    """An allowance per minute; starts full."""

    per_minute: int
    level: float
    filled_at: float

    def fill(self, now: float) -> None:
        """Add what has accrued since the last look."""
        gained = (now - self.filled_at) * self.per_minute / 60
        self.level = min(float(self.per_minute), self.level + gained)
        self.filled_at = now

    def missing_seconds(self, amount: float) -> float:
        """Return how long until `amount` is there; 0 when it is."""
        return max(0.0, (amount - self.level) * 60 / self.per_minute)


class _Account:
    def __init__(self, limits: RoleLimits, now: float) -> None:
        self.limits = limits
        self.running = 0
        self.requests = Bucket(limits.requests_per_minute, float(limits.requests_per_minute), now)
        self.tokens = Bucket(limits.tokens_per_minute, float(limits.tokens_per_minute), now)

    def adopt(self, limits: RoleLimits, now: float) -> None:
        """Take new limits in after a reload of the policy, keeping what was used."""
        for bucket, per_minute in (
            (self.requests, limits.requests_per_minute),
            (self.tokens, limits.tokens_per_minute),
        ):
            bucket.fill(now)
            bucket.level += per_minute - bucket.per_minute
            bucket.per_minute = per_minute
        self.limits = limits

    def idle(self, now: float) -> bool:
        self.requests.fill(now)
        self.tokens.fill(now)
        full = (
            self.requests.level >= self.requests.per_minute
            and self.tokens.level >= self.tokens.per_minute
        )
        return full and not self.running


class Limiter:
    """Accounts of all principals. Used from one event loop."""

    def __init__(
        self, max_concurrent_calls: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_concurrent = max_concurrent_calls
        self._clock = clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self.running = 0

    def enter(self, principal: str, limits: RoleLimits) -> Callable[[], None]:
        """Count one call in; return what counts it out again.

        Raises:
            Refusal: RESOURCE_EXHAUSTED, with the time to wait.
        """
        if self.running >= self._max_concurrent:
            raise exhausted(
                "TOO_MANY_CALLS",
                "the appliance has too many calls running",
                _CONCURRENCY_RETRY_SECONDS,
            )
        account = self._account(principal, limits)
        if account.running >= limits.max_concurrent:
            raise exhausted(
                "TOO_MANY_CALLS_OF_PRINCIPAL",
                f"more than {limits.max_concurrent} calls running",
                _CONCURRENCY_RETRY_SECONDS,
            )
        wait = account.requests.missing_seconds(1)
        if wait > 0:
            raise exhausted(
                "REQUEST_RATE", f"more than {limits.requests_per_minute} requests a minute", wait
            )
        account.requests.level -= 1
        account.running += 1
        self.running += 1

        def leave() -> None:
            account.running -= 1
            self.running -= 1

        return leave

    def reserve(self, principal: str, limits: RoleLimits, estimate: int) -> Callable[[int], None]:
        """Reserve tokens; return what settles the reservation with the real count.

        Raises:
            Refusal: RESOURCE_EXHAUSTED, with the time to wait.
        """
        account = self._account(principal, limits)
        # A request larger than a whole minute's allowance must wait for a full bucket.
        reserved = min(estimate, limits.tokens_per_minute)
        wait = account.tokens.missing_seconds(reserved)
        if wait > 0:
            raise exhausted(
                "TOKEN_RATE", f"more than {limits.tokens_per_minute} tokens a minute", wait
            )
        account.tokens.level -= reserved

        def settle(used: int) -> None:
            account.tokens.level += reserved - used

        return settle

    def _account(self, principal: str, limits: RoleLimits) -> _Account:
        now = self._clock()
        account = self._accounts.get(principal)
        if account is None:
            self._forget_idle(now)
            account = self._accounts[principal] = _Account(limits, now)
        elif account.limits != limits:
            account.adopt(limits, now)
        else:
            account.requests.fill(now)
            account.tokens.fill(now)
        self._accounts.move_to_end(principal)
        return account

    def _forget_idle(self, now: float) -> None:
        """Forget idle accounts from the longest unused on, while there are too many."""
        while len(self._accounts) >= MAX_REMEMBERED_PRINCIPALS:
            principal, account = next(iter(self._accounts.items()))
            if not account.idle(now):
                raise exhausted(
                    "TOO_MANY_CALLS", "too many principals at once", _CONCURRENCY_RETRY_SECONDS
                )
            del self._accounts[principal]
