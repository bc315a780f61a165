"""How many refusals go on record one by one.

A refused call costs its caller nothing, an entry costs a flush of the disk and room on
it for ever. So each caller has an allowance of `denied` entries; what it is refused
beyond that is counted, and the count goes on record once per interval.

Invariants: every refusal is on record, by itself or in a count; what is remembered is
bounded: callers beyond `MAX_CALLERS` share one allowance and one count.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from runtime.front.limits import Bucket

ENTRIES_PER_MINUTE = 20
INTERVAL_SECONDS = 60.0
MAX_CALLERS = 1024
_EVERYONE_ELSE = "*"


@dataclass(frozen=True, slots=True)
class Unlisted:
    """Refusals of one caller that have no entry of their own.

    Attributes:
        principal, role: of the caller; "" when it was not accepted or is not one only.
        count: how many.
    """

    principal: str
    role: str
    count: int


@dataclass(slots=True)
class _Caller:
    principal: str
    role: str
    bucket: Bucket
    count: int = 0
    since: float = 0.0


class DenialMeter:
    """The allowances of all callers. Used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._counting: dict[str, _Caller] = {}

    def admit(self, key: str, principal: str = "", role: str = "") -> bool:
        """Return whether a refusal gets an entry of its own; count it when it does not.

        Args:
            key: tells callers apart: the principal, or a hash of a refused certificate.
            principal, role: for the entry that holds the count.
        """
        now = self._clock()
        key, caller = self._caller(key, principal, role, now)
        caller.bucket.fill(now)
        if caller.bucket.level >= 1:
            caller.bucket.level -= 1
            return True
        if not caller.count:
            caller.since = now
            self._counting[key] = caller
        caller.count += 1
        return False

    def due(self, *, all_of_them: bool = False) -> list[Unlisted]:
        """Return the counts whose interval has passed, and begin anew. Cheap."""
        now = self._clock()
        ready = [
            key
            for key, caller in self._counting.items()
            if all_of_them or now - caller.since >= INTERVAL_SECONDS
        ]
        counts = []
        for key in ready:
            caller = self._counting.pop(key)
            counts.append(Unlisted(caller.principal, caller.role, caller.count))
            caller.count = 0
        return counts

    def _caller(self, key: str, principal: str, role: str, now: float) -> tuple[str, _Caller]:
        if key not in self._callers and len(self._callers) >= MAX_CALLERS:
            self._forget_idle(now)
            if len(self._callers) >= MAX_CALLERS:
                key, principal, role = _EVERYONE_ELSE, "", ""
        caller = self._callers.get(key)
        if caller is None:
            bucket = Bucket(ENTRIES_PER_MINUTE, float(ENTRIES_PER_MINUTE), now)
            caller = self._callers[key] = _Caller(principal, role, bucket)
        self._callers.move_to_end(key)
        return key, caller

    def _forget_idle(self, now: float) -> None:
        """Forget callers, the longest unheard of first, while that changes nothing for them."""
        while len(self._callers) >= MAX_CALLERS:
            key, oldest = next(iter(self._callers.items()))
            oldest.bucket.fill(now)
            if oldest.count or oldest.bucket.level < ENTRIES_PER_MINUTE:
                return
            del self._callers[key]
