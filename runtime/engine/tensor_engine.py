"""Serves a graph as it is: tensors in, tensors out, for bundles of task "tensor".

Requests are batched along the first dimension where the graph leaves that dimension
free, under one name, in every input and output; otherwise each runs alone. Inputs are
checked against the graph before they wait (`tensors.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from runtime.engine.batching import BatchLimits, BatchLoop
from runtime.engine.errors import EngineError, FailureReason, InvalidRequest
from runtime.engine.onnx import OnnxSession
from runtime.engine.tensors import Array, check_inputs, check_outputs
from runtime.engine.types import EngineStats, Failure


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """Inputs by name, and the names of the outputs wanted (none: all)."""

    id: int
    inputs: Mapping[str, Array] = field(repr=False)
    outputs: tuple[str, ...] = ()
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class TensorDone:
    """Outputs by name, in the order asked for."""

    id: int
    outputs: Mapping[str, Array] = field(repr=False)
    queue_ms: int


TensorEvent = TensorDone | Failure
TensorEmit = Callable[[TensorEvent], None]


@dataclass(frozen=True, slots=True)
class TensorItem:
    """A checked request, with what makes it fit others: `key` is equal for those."""

    request_id: int
    inputs: Mapping[str, Array] = field(repr=False)
    outputs: tuple[str, ...]
    rows: int
    key: object
    deadline: float | None
    arrived: float
    emit: TensorEmit = field(repr=False)


class TensorEngine:
    """Serves one graph. `submit` and `cancel` are safe from any thread."""

    def __init__(self, session: OnnxSession, limits: BatchLimits) -> None:
        self.session = session
        self._waiting_emits: dict[int, TensorEmit] = {}
        self._steps = 0
        self._loop: BatchLoop[TensorItem] = BatchLoop(self, limits, "tensors")

    def start(self) -> None:
        """Start the engine's thread."""
        self._loop.start()

    def submit(self, request: TensorRequest, emit: TensorEmit) -> None:
        """Take a request; `emit` gets exactly one TensorDone or Failure, maybe at once."""
        try:
            item = self._item(request, emit)
        except InvalidRequest as error:
            emit(Failure(request.id, error.reason, error.field, str(error)))
            return
        self._waiting_emits[request.id] = emit
        if not self._loop.submit([item]):
            self.drop(request.id, FailureReason.CAPACITY)

    def cancel(self, request_id: int) -> None:
        """Give a request up; it ends with a CANCELLED failure unless it is done already."""
        self._loop.cancel(request_id)

    @property
    def alive(self) -> bool:
        """Whether the engine's thread is at work."""
        return self._loop.alive

    def drain(self) -> None:
        """Finish what waits and end the thread."""
        self._loop.drain()

    def stats(self) -> EngineStats:
        """Gauges and counters."""
        running, waiting = self._loop.counts()
        return EngineStats(running=running, waiting=waiting, steps=self._steps)

    def _item(self, request: TensorRequest, emit: TensorEmit) -> TensorItem:
        check_inputs(self.session.inputs, request.inputs)
        outputs = check_outputs(self.session.outputs, request.outputs)
        rows, key = 1, object()
        if self.session.batchable:
            sizes = {array.shape[0] for array in request.inputs.values()}
            if len(sizes) != 1:
                raise InvalidRequest("inputs", "the first dimensions of the inputs differ")
            (rows,) = sizes
            shapes = sorted((name, array.shape[1:]) for name, array in request.inputs.items())
            return TensorItem(
                request.id, request.inputs, outputs, rows, (outputs, tuple(shapes)),
                request.deadline, time.monotonic(), emit,
            )  # fmt: skip
        return TensorItem(
            request.id, request.inputs, outputs, rows, key,
            request.deadline, time.monotonic(), emit,
        )  # fmt: skip

    def choose(self, waiting: list[TensorItem], limit: int) -> list[TensorItem]:
        """Pick the oldest request and those that fit it, up to `limit` rows (for the loop)."""
        batch = [waiting[0]]
        rows = waiting[0].rows
        for item in waiting[1:]:
            if item.key == waiting[0].key and rows + item.rows <= limit:
                batch.append(item)
                rows += item.rows
        return batch

    def run(self, batch: list[TensorItem]) -> None:
        """Run a batch and hand out its parts (for the loop)."""
        started = time.monotonic()
        first = batch[0]
        try:
            feeds = {
                name: np.concatenate([item.inputs[name] for item in batch])
                if len(batch) > 1
                else first.inputs[name]
                for name in first.inputs
            }
            results = self.session.run(feeds, first.outputs)
            total = sum(item.rows for item in batch)
            if len(batch) > 1 and any(array.shape[:1] != (total,) for array in results):
                raise EngineError("the graph gave an output of another shape than it declares")
        except EngineError as error:
            for item in batch:
                self._finish(item, Failure(item.request_id, FailureReason.INTERNAL, "", str(error)))
            return
        self._steps += 1
        start = 0
        for item in batch:
            part = slice(start, start + item.rows) if len(batch) > 1 else slice(None)
            start += item.rows
            outputs = {
                name: array[part] if array.ndim else array
                for name, array in zip(first.outputs, results, strict=True)
            }
            queue_ms = max(0, int((started - item.arrived) * 1000))
            self._finish(item, TensorDone(item.request_id, outputs, queue_ms))

    def drop(self, request_id: int, reason: FailureReason) -> None:
        """Report a request that was not computed (for the loop)."""
        emit = self._waiting_emits.pop(request_id, None)
        if emit is not None:
            emit(Failure(request_id, reason, "", ""))

    def _finish(self, item: TensorItem, event: TensorEvent) -> None:
        if self._waiting_emits.pop(item.request_id, None) is not None:
            item.emit(event)
