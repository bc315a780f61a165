"""A host without a process: answers at once, and misbehaves where it is told to."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.errors import FailureReason, WorkerError
from security.bundle.opening import VerifiedBundle


class MemoryStream:
    """One answer: the output `y` with one value."""

    def __init__(self, value: float) -> None:
        self._value = value

    async def __aiter__(self) -> AsyncIterator[worker_pb2.FromWorker]:
        message = worker_pb2.FromWorker()
        message.completed.infer.outputs.add(name="y", datatype="FP32", shape=[1])
        message.completed.infer.raw_output_contents.append(struct.pack("<f", self._value))
        yield message

    def cancel(self) -> None:
        """There is nothing to stop."""


class MemoryHost:
    """See the module."""

    def __init__(self, bundle: VerifiedBundle, value: float) -> None:
        self.bundle = bundle
        self.value = value
        self.closed = False

    @property
    def ready(self) -> bool:
        return not self.closed

    def submit(self, work: worker_pb2.Submit) -> MemoryStream:
        return MemoryStream(self.value)

    async def drain(self, timeout_seconds: float) -> None:
        await self.close()

    async def close(self) -> None:
        self.closed = True
        self.bundle.close()


@dataclass
class MemoryHosts:
    """A factory of hosts; what it is told to do goes by version.

    Attributes:
        wrong: versions that answer their probes wrongly.
        broken: versions whose worker does not start.
        held: versions whose start waits for the event.
        started: every host that was started, in order.
    """

    wrong: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    started: list[MemoryHost] = field(default_factory=list)

    async def __call__(self, bundle: VerifiedBundle) -> MemoryHost:
        version = bundle.manifest.version
        if version in self.held:
            await self.held[version].wait()
        if version in self.broken:
            raise WorkerError("the model could not be loaded", FailureReason.LOAD)
        host = MemoryHost(bundle, 9.0 if version in self.wrong else 1.0)
        self.started.append(host)
        return host

    def of(self, version: str) -> MemoryHost:
        """Return the newest host of a version."""
        return [h for h in self.started if h.bundle.manifest.version == version][-1]


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Let the loop run until something is so; fails when it is not so in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)
