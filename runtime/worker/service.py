"""What the worker's loop asks of the engine it serves, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.engine.errors import LoadError
from runtime.engine.types import EngineStats

Send = Callable[[worker_pb2.FromWorker], None]


class Service(Protocol):
    """One loaded model. Every method may be called from the worker's main thread alone."""

    def ready(self) -> worker_pb2.Ready:
        """Describe the model; the caller adds the sandbox's layers."""

    def submit(self, work: worker_pb2.Submit) -> None:
        """Take a request; what comes of it is sent, ending in one Completed or Failed."""

    def cancel(self, request_id: int) -> None:
        """Give a request up."""

    def stats(self) -> EngineStats:
        """Gauges for the heartbeat."""

    @property
    def alive(self) -> bool:
        """Whether the engine's thread is at work."""

    def drain(self) -> None:
        """Finish every request that was taken; blocks."""


def descriptor_path(load: worker_pb2.LoadModel, name: str) -> str:
    """Return the path under which an inherited file of the bundle can be opened.

    Raises:
        LoadError: the front did not hand that file over.
    """
    if name not in load.descriptors:
        raise LoadError(f"the front handed over no file {name}")
    return f"/proc/self/fd/{load.descriptors[name]}"
