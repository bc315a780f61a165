"""When a failed call may be made again. Pure: time and chance come from outside.

A call is repeated only when repeating cannot do a thing twice: nothing of an answer
has arrived, and either the call changes nothing, or the appliance said that it did
not begin. A worker that died may have died of this very request, so a generation it
had begun is not sent again.
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.client.errors import ClientError, ConnectionFailed
from security.errors import UsageError

# The appliance says with these reasons that it never started the work.
NOT_STARTED = frozenset(
    {
        "DRAINING",
        "MODEL_BUSY",
        "MODEL_NOT_READY",
        "REQUEST_RATE",
        "TOKEN_RATE",
        "TOO_MANY_CALLS",
        "TOO_MANY_CALLS_OF_PRINCIPAL",
    }
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounded exponential back-off with jitter.

    Attributes:
        attempts: tries in all, the first included; 1 switches retries off.
        initial_delay_seconds: before the second try.
        max_delay_seconds: longest pause; an appliance that asks for more gets none.
    """

    attempts: int = 4
    initial_delay_seconds: float = 0.1
    max_delay_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 < self.initial_delay_seconds <= self.max_delay_seconds:
            raise UsageError("retries need attempts >= 1 and 0 < initial <= max delay")

    def delay_after(
        self,
        error: ClientError,
        *,
        attempt: int,
        idempotent: bool,
        answer_began: bool,
        remaining_seconds: float,
        chance: float,
    ) -> float | None:
        """Return how long to wait before the next try, or None to give up.

        Args:
            error: what the try failed with.
            attempt: number of tries made, from 1.
            idempotent: whether making the call twice is the same as once.
            answer_began: whether any part of an answer arrived.
            remaining_seconds: what is left of the caller's deadline.
            chance: a random number in [0, 1), for the jitter.
        """
        if attempt >= self.attempts or answer_began or isinstance(error, ConnectionFailed):
            return None
        if error.code not in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}:
            return None
        if error.code == "RESOURCE_EXHAUSTED" and error.retry_after_seconds is None:
            return None  # a limit that waiting does not lift
        if not idempotent and error.reason not in NOT_STARTED:
            return None
        doubled = self.initial_delay_seconds * 2.0 ** (attempt - 1)
        backoff: float = min(doubled, self.max_delay_seconds)
        delay = backoff * (0.5 + chance / 2)
        if error.retry_after_seconds is not None:
            delay = max(delay, error.retry_after_seconds)
        if delay > self.max_delay_seconds or delay >= remaining_seconds:
            return None
        return delay
