"""The engine: requests in from any thread, events out, one thread that owns the model.

    submit ─► prepare ─► inbox ─►│ admit ─► plan ─► decode ─► choose ─► emit │─► inbox ...
      caller's thread            │             the engine's thread           │

Each turn of the loop takes what is in the inbox, gives up what is cancelled or late,
admits what fits, runs one step and tells the clients. So requests join and leave at
every step, and a cancellation costs at most the step that is running. With nothing to
do the thread sleeps on the inbox.

Invariants:
  - Every request gets exactly one Done or Failure, its last event.
  - A step that fails is tried again one sequence at a time from the state before it:
    only a sequence that fails alone is given up.
  - Events go out on the engine's thread, except the Failure of a request that is
    refused at once, which goes out inside `submit`. `emit` must not block.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from runtime.engine.backend import TokenBackend
from runtime.engine.config import EngineConfig
from runtime.engine.errors import (
    DecodeError,
    EngineError,
    FailureReason,
    InvalidRequest,
    NoSlotError,
)
from runtime.engine.preparation import DEADLINE_PASSED, Preparer
from runtime.engine.scheduler import Chunk, Scheduler
from runtime.engine.sequence import Emit, Generation, Scoring, Sequence
from runtime.engine.template import ChatTemplate
from runtime.engine.types import (
    Done,
    EngineStats,
    Event,
    Failure,
    GenerateRequest,
    ScoreRequest,
)

_CANCELLED = (FailureReason.CANCELLED, "", "the request was cancelled")
_LATE = (FailureReason.DEADLINE, "", DEADLINE_PASSED)


class GenerationEngine:
    """Continuous batching over one TokenBackend, which it owns and closes."""

    def __init__(
        self, backend: TokenBackend, config: EngineConfig, template: ChatTemplate | None = None
    ) -> None:
        """`template` renders conversations; without one they are refused as UNSUPPORTED.

        `defect` is the error that ended the engine's thread, if one did; `alive` is then
        false, everything in flight has failed, and the process should be replaced.
        """
        self._backend = backend
        self._config = config
        self._preparer = Preparer(backend, template)
        self._scheduler = Scheduler(
            backend,
            config,
            kv_tokens=backend.kv_tokens,
            sequence_slots=backend.sequence_slots,
            step_tokens=backend.step_tokens,
            max_rows=backend.max_rows,
        )
        self._inbox: queue.SimpleQueue[Sequence | int | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._in_flight: dict[int, Sequence] = {}
        self._idle = threading.Event()
        self._idle.set()
        self._draining = False
        self._closed = False
        self.defect: Exception | None = None
        self._prompt_tokens = self._generation_tokens = self._steps = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # --- any thread -----------------------------------------------------------------

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def submit(self, request: GenerateRequest | ScoreRequest, emit: Emit) -> None:
        """Take a request on, or refuse it with a Failure to `emit` before returning.

        Renders and tokenizes in the caller's thread (milliseconds for a long prompt), so
        that decoding does not wait for it.
        """
        try:
            sequence = self._preparer.prepare(request, emit)
            with self._lock:
                self._check_open(request.id)
                self._in_flight[request.id] = sequence
                self._idle.clear()
                self._inbox.put(sequence)
        except InvalidRequest as refused:
            emit(Failure(request.id, refused.reason, refused.field, str(refused)))
        except EngineError as failed:
            emit(Failure(request.id, FailureReason.INTERNAL, "", str(failed)))

    def cancel(self, request_id: int) -> None:
        """Give a request up within one step; unknown and ended ids are ignored."""
        self._inbox.put(request_id)

    def drain(self, timeout_seconds: float | None = None) -> bool:
        """Refuse new requests and wait for those in flight; whether all have ended."""
        with self._lock:
            self._draining = True
        return self._idle.wait(timeout_seconds)

    def stats(self) -> EngineStats:
        """Gauges and counters, read while the engine works; each is right by itself."""
        scheduler = self._scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_tokens_used=scheduler.kv_tokens_used,
            kv_tokens_total=self._backend.kv_tokens,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            steps=self._steps,
        )

    @property
    def alive(self) -> bool:
        """Whether the engine's thread is at work."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Fail what is in flight as CANCELLED, end the thread, and free the model."""
        with self._lock:
            self._draining = self._closed = True
            self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._backend.close()

    def _check_open(self, request_id: int) -> None:
        if self._draining:
            raise InvalidRequest("", "the engine is draining", FailureReason.CAPACITY)
        if request_id in self._in_flight:
            raise InvalidRequest("id", "the id is in use")
        if len(self._in_flight) >= self._config.max_waiting + self._config.max_sequences:
            raise InvalidRequest("", "too many requests are waiting", FailureReason.CAPACITY)

    # --- the engine's thread --------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._receive():
                self._give_up_late()
                now = time.monotonic()
                for sequence in self._scheduler.admit(now):
                    self._prompt_tokens += len(sequence.tokens)
                for chunks in self._scheduler.plan():
                    self._steps += 1
                    self._step(chunks)
        except Exception as defect:  # a bug: the owner reports it, nothing can be saved
            self.defect = defect
        finally:
            # Reached by `close` and by a defect alike: nobody is left without an end.
            with self._lock:
                self._draining = True
                left = list(self._in_flight.values())
            reason = FailureReason.CANCELLED if self._closed else FailureReason.INTERNAL
            for sequence in left:
                self._end(sequence, Failure(sequence.id, reason, "", "the engine has stopped"))

    def _receive(self) -> bool:
        """Take in what was sent; sleeps when there is nothing to do. False ends the loop."""
        scheduler = self._scheduler
        busy = bool(scheduler.running or scheduler.waiting)
        while True:
            try:
                message = self._inbox.get(block=not busy)
            except queue.Empty:
                return True
            busy = True
            if message is None:
                return False
            if isinstance(message, Sequence):
                scheduler.waiting.append(message)
            elif (sequence := self._in_flight.get(message)) is not None:
                self._fail(sequence, *_CANCELLED)

    def _give_up_late(self) -> None:
        now = time.monotonic()
        scheduler = self._scheduler
        for sequence in [*scheduler.waiting, *scheduler.running]:
            if sequence.deadline is not None and sequence.deadline <= now:
                self._fail(sequence, *_LATE)

    def _step(self, chunks: list[Chunk]) -> None:
        """Run one step; on failure give up only sequences that fail alone."""
        try:
            rows = self._decode(chunks)
        except NoSlotError:
            # Reservations make this impossible unless kept prefixes are in the way.
            self._rewind(chunks)
            if self._scheduler.evict_all():
                self._step(chunks)
            else:
                self._step_alone(chunks, FailureReason.CAPACITY)
            return
        except DecodeError:
            self._rewind(chunks)
            self._step_alone(chunks, FailureReason.INTERNAL)
            return
        for chunk, row in zip(chunks, rows, strict=True):
            self._advance(chunk, row)

    def _step_alone(self, chunks: list[Chunk], reason: FailureReason) -> None:
        if len(chunks) > 1:
            for chunk in chunks:
                self._step([chunk])
            return
        detail = "the model could not compute this request"
        self._fail(chunks[0].sequence, reason, "", detail, keep=False)

    def _decode(self, chunks: list[Chunk]) -> list[int]:
        backend = self._backend
        backend.begin()
        rows = []
        for chunk in chunks:
            sequence = chunk.sequence
            start, end = sequence.computed, sequence.computed + chunk.count
            rows.append(
                backend.add(
                    sequence.slot,
                    sequence.tokens[start:end],
                    start,
                    every_row=sequence.every_row,
                    last_row=end == len(sequence.tokens),
                )
            )
        backend.decode()
        return rows

    def _rewind(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._backend.forget(chunk.sequence.slot, chunk.sequence.computed)

    def _advance(self, chunk: Chunk, row: int) -> None:
        """Use a chunk's logits: choose a token, or score the chunk's tokens."""
        sequence = chunk.sequence
        start = sequence.computed
        sequence.computed += chunk.count
        try:
            if isinstance(sequence, Scoring):
                done = self._score(sequence, start, chunk.count, row)
            elif isinstance(sequence, Generation) and sequence.pending == 0:
                self._generation_tokens += 1
                done = sequence.advance(self._backend.logits(row + chunk.count - 1))
            else:
                return
        except DecodeError as failed:
            self._fail(sequence, FailureReason.INTERNAL, "", str(failed), keep=False)
            return
        except Exception:  # whatever the client's `emit` raises: it alone is gone
            self._fail(sequence, *_CANCELLED)
            return
        if done is not None:
            self._end(sequence, done)

    def _score(self, sequence: Scoring, start: int, count: int, row: int) -> Done | None:
        for offset in range(count):
            sequence.score(self._backend.logits(row + offset), start + offset)
        if sequence.pending:
            return None
        self._backend.forget(sequence.slot)
        return sequence.next_text()

    def _fail(
        self,
        sequence: Sequence,
        reason: FailureReason,
        field: str,
        detail: str,
        *,
        keep: bool = True,
    ) -> None:
        self._end(sequence, Failure(sequence.id, reason, field, detail), keep=keep)

    def _end(self, sequence: Sequence, event: Event, *, keep: bool = True) -> None:
        """Take a request out of the queues and tell its client how it ended."""
        scheduler = self._scheduler
        if sequence in scheduler.running:
            scheduler.finish(sequence, keep=keep)
        elif sequence in scheduler.waiting:
            scheduler.waiting.remove(sequence)
        with self._lock:
            self._in_flight.pop(sequence.id, None)
            if not self._in_flight:
                self._idle.set()
        _tell(sequence.emit, event)


def _tell(emit: Callable[[Event], Any], event: Event) -> None:
    """Emit; a client whose callable raises is gone, and nobody else may notice."""
    try:
        emit(event)
    except Exception:
        return
