"""What the catalog needs of whatever runs a model version.

`runtime.worker.supervisor.ModelHost` is the real one: a sandboxed process that is
restarted when it dies. Tests use an in-memory one with the same behaviour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol

from casemate.pb.casemate.worker.v1 import worker_pb2
from security.bundle.opening import VerifiedBundle


class Stream(Protocol):
    """The answers to one piece of work, in order; the last one is `completed`."""

    def __aiter__(self) -> AsyncIterator[worker_pb2.FromWorker]:
        """Iterate over the messages; raises when the work or the worker failed."""
        ...

    def cancel(self) -> None:
        """Stop the work; the iterator ends."""
        ...


class Submitter(Protocol):
    """Anything that takes work: a host, or a lone worker while probes are recorded."""

    def submit(self, work: worker_pb2.Submit) -> Stream:
        """Start one piece of work; the id is assigned below."""
        ...


class Host(Submitter, Protocol):
    """Keeps one model version running until it is closed."""

    @property
    def ready(self) -> bool:
        """Whether work is taken now."""
        ...

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new work and wait for what is running, at most so long."""
        ...

    async def close(self) -> None:
        """End the process at once; what was running fails."""
        ...


class HostFactory(Protocol):
    """Starts a host for a verified bundle; returns when it is ready, or raises."""

    def __call__(self, bundle: VerifiedBundle) -> Awaitable[Host]:
        """Load the bundle. The bundle stays open for as long as the host lives."""
        ...
