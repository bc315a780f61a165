"""One request's answer on its way from the worker: a bounded, ordered stream.

Invariants:
  - A stream ends exactly once: with Completed, WorkFailed or WorkerGone.
  - A reader that stops reading holds back nobody else: its deltas are merged while they
    wait, and its stream alone fails once they pass `max_bytes`.
  - After `cancel` nothing of the answer is delivered any more.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from types import TracebackType

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.errors import FailureReason, WorkerError, WorkerGone, WorkFailed

# Deltas that may wait one by one before further ones are merged into the last.
_MERGE_AFTER = 32

REASONS = {
    worker_pb2.FAILURE_REASON_INVALID_ARGUMENT: FailureReason.INVALID_ARGUMENT,
    worker_pb2.FAILURE_REASON_CAPACITY: FailureReason.CAPACITY,
    worker_pb2.FAILURE_REASON_DEADLINE: FailureReason.DEADLINE,
    worker_pb2.FAILURE_REASON_CANCELLED: FailureReason.CANCELLED,
    worker_pb2.FAILURE_REASON_INTERNAL: FailureReason.INTERNAL,
    worker_pb2.FAILURE_REASON_UNSUPPORTED: FailureReason.UNSUPPORTED,
    worker_pb2.FAILURE_REASON_LOAD: FailureReason.LOAD,
}
"""The wire's reasons; anything else a worker sends counts as INTERNAL."""

_MAX_FIELD_CHARS = 64
_MAX_DETAIL_CHARS = 256
_NOT_PRINTABLE = re.compile("[^ -~]")


def failure_from_wire(failed: worker_pb2.Failed) -> WorkFailed:
    """Turn a worker's Failed into an error, its texts cut to printable ASCII of safe length."""
    reason = REASONS.get(failed.reason, FailureReason.INTERNAL)
    field = _NOT_PRINTABLE.sub("?", failed.field[:_MAX_FIELD_CHARS])
    return WorkFailed(reason, field, _NOT_PRINTABLE.sub("?", failed.detail[:_MAX_DETAIL_CHARS]))


class WorkStream:
    """Async iterator over the messages of one request; belongs to one event loop.

    Yields `FromWorker` messages: `delta` any number of times (streams of text only),
    then `completed` once. Raises WorkFailed or WorkerGone instead of `completed`.
    """

    def __init__(
        self,
        identifier: int,
        cancel: Callable[[int], None],
        max_bytes: int,
        tenant: bytes = b"",
    ) -> None:
        self.id = identifier
        self.tenant = tenant
        self._send_cancel = cancel
        self._max_bytes = max_bytes
        # Each with the bytes that it took on the wire.
        self._waiting: deque[tuple[worker_pb2.FromWorker, int]] = deque()
        self._waiting_bytes = 0
        self._error: WorkerError | None = None
        self._ended = False
        self._cancelled = False
        self._delivered_end = False
        self._wake = asyncio.Event()

    # The supervisor's side.

    def push(self, message: worker_pb2.FromWorker, size: int) -> None:
        """Add a delta or the result that arrived in a frame of `size` bytes."""
        if self._ended:
            return
        if message.HasField("completed"):
            self._ended = True
        if self._cancelled:
            return
        self._waiting_bytes += size
        if self._waiting_bytes > self._max_bytes and not self._ended:
            self._drop_waiting()
            self._send_cancel(self.id)
            self.fail(WorkFailed(FailureReason.CAPACITY, "", "the client reads too slowly"))
            return
        if len(self._waiting) >= _MERGE_AFTER and message.HasField("delta"):
            last, last_size = self._waiting.pop()
            last.delta.delta.text += message.delta.delta.text
            last.delta.delta.logprobs.extend(message.delta.delta.logprobs)
            self._waiting.append((last, last_size + size))
        else:
            self._waiting.append((message, size))
        self._wake.set()

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def fail(self, error: WorkerError) -> None:
        """End the stream with an error; what already waits is delivered first."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._wake.set()

    @property
    def ended(self) -> bool:
        """Whether the last message or an error has arrived."""
        return self._ended

    # The caller's side.

    def cancel(self) -> None:
        """Stop the request at once; the stream then ends with WorkFailed(CANCELLED).

        Calling it again, or after the end, does nothing.
        """
        if self._cancelled or self._delivered_end:
            return
        self._cancelled = True
        self._drop_waiting()
        if not self._ended:
            self._send_cancel(self.id)
        self._wake.set()

    def __aiter__(self) -> WorkStream:
        return self

    async def __anext__(self) -> worker_pb2.FromWorker:
        while True:
            if self._cancelled:
                self._delivered_end = True
                raise WorkFailed(FailureReason.CANCELLED, "", "the request was cancelled")
            if self._waiting:
                return self._take()
            if self._delivered_end:
                raise StopAsyncIteration
            if self._error is not None:
                self._delivered_end = True
                raise self._error
            self._wake.clear()
            await self._wake.wait()

    def _take(self) -> worker_pb2.FromWorker:
        message, size = self._waiting.popleft()
        self._waiting_bytes -= size
        if message.HasField("completed"):
            self._delivered_end = True
        return message

    async def result(self) -> worker_pb2.Completed:
        """Wait for the end, dropping deltas, and return the result."""
        async for message in self:
            if message.HasField("completed"):
                return message.completed
        raise WorkerGone(0)

    async def __aenter__(self) -> WorkStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()
