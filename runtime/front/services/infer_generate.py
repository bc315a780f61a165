"""ModelInfer on a model that generates: many texts in one call, a few at a time.

A call may bring as many texts as `limits.max_inputs`, which may be as many as the
model's queue has places. Each text that runs counts as one call does: all texts of one
principal together take no more places than the role's `max_concurrent`, and one call
no more than its host has to give to one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.front.call import Call
from runtime.front.services.work import messages, served_of, submit
from runtime.policy.model import RoleLimits

# Where the host does not say.
_DEFAULT_PLACES_PER_CALL = 16

MakeRequest = Callable[[str], text_pb2.GenerateRequest]


@runtime_checkable
class HasQueue(Protocol):
    """A host that says how many places of its queue one call may take."""

    @property
    def places_per_call(self) -> int:
        """At least 1."""
        ...


@dataclass(slots=True)
class _Shared:
    """The places of one principal, and how many calls share them."""

    places: asyncio.Semaphore
    calls: int = 0


class Places:
    """The places that each principal's texts may take at the same time.

    First come, first served between the calls of a principal. Used from one event loop;
    remembers only principals with a call running.
    """

    def __init__(self) -> None:
        self._shared: dict[tuple[str, int], _Shared] = {}

    @contextmanager
    def of(self, principal: str, limit: int) -> Iterator[asyncio.Semaphore]:
        """Share the principal's `limit` places until the context ends."""
        key = (principal, limit)
        shared = self._shared.setdefault(key, _Shared(asyncio.Semaphore(limit)))
        shared.calls += 1
        try:
            yield shared.places
        finally:
            shared.calls -= 1
            if not shared.calls:
                del self._shared[key]


async def generate_all(
    call: Call, texts: list[str], make_request: MakeRequest, places: Places
) -> list[bytes]:
    """Generate for each text; return the answers in the texts' order.

    Raises:
        WorkerError: of the first text that failed; the others are given up.
    """
    host = served_of(call).host
    limits = call.role.limits if call.role else RoleLimits()
    principal = call.principal.spiffe_id if call.principal else ""
    per_call = host.places_per_call if isinstance(host, HasQueue) else _DEFAULT_PLACES_PER_CALL
    answers = [b""] * len(texts)
    waiting = iter(enumerate(texts))
    with places.of(principal, limits.max_concurrent) as shared:

        async def take_turns() -> None:
            for index, text in waiting:
                async with shared:
                    answers[index] = await _generate(call, make_request(text))

        turns = min(len(texts), per_call, limits.max_concurrent)
        await _together([take_turns for _ in range(turns)])
    return answers


async def _together(works: list[Callable[[], Awaitable[None]]]) -> None:
    """Run all; when one fails, cancel the others and raise its error alone."""
    tasks = [asyncio.ensure_future(work()) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _generate(call: Call, wire: text_pb2.GenerateRequest) -> bytes:
    stream = submit(call, worker_pb2.Submit(generate=wire))
    pieces = [
        message.delta.delta.text
        async for message in messages(call, stream)
        if message.HasField("delta")
    ]
    return "".join(pieces).encode()
