"""How many messages may be on their way in, and for how long.

A message that has begun takes memory until it ends, and its size is in the sender's
hands. So a call's message is asked of the transport only after its sender is known,
and then only while few others are being received; until then flow control leaves the
bytes with the sender.

Invariants: at most `most` messages are received at once, `most_of_one` of them from
one principal; none takes longer than `seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from runtime.front.errors import exhausted

_RETRY_SECONDS = 1.0


class Intake:
    """Receives the messages of all calls. Used from one event loop."""

    def __init__(self, *, most: int, most_of_one: int, seconds: float) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_of_one = most_of_one
        self._seconds = seconds
        # The places of a principal, and how many calls have or await one.
        self._principals: dict[str, tuple[asyncio.Semaphore, int]] = {}

    async def receive(self, principal: str, read: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for a place, then return what `read` gives.

        Raises:
            Refusal: RESOURCE_EXHAUSTED when the message was not there in time.
        """
        places, users = self._principals.get(principal, (None, 0))
        places = places or asyncio.Semaphore(self._most_of_one)
        self._principals[principal] = (places, users + 1)
        try:
            async with asyncio.timeout(self._seconds), places, self._all:
                return await read()
        except TimeoutError:
            raise exhausted(
                "REQUEST_NOT_RECEIVED",
                f"the message was not received within {self._seconds:g} seconds",
                _RETRY_SECONDS,
            ) from None
        finally:
            places, users = self._principals.pop(principal)
            if users > 1:
                self._principals[principal] = (places, users - 1)
