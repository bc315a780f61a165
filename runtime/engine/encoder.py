"""Embeddings and classifications: tokenization, length bucketing, batches, results.

The graph's interface is the bundle format's: inputs `input_ids` and `attention_mask`
(INT64 [batch, sequence]); output `embedding` (FP32 [batch, dim], pooled and normalized
inside the graph) or `logits` (FP32 [batch, labels], turned into probabilities here).

A text longer than the model takes is refused by name, never cut: `inputs[3]`. Every
input of every request is an item of its own, and a batch is made of items of similar
length, whichever request they belong to, so that little is computed on padding. An
answer can differ in its last digits with the batch it was computed in.

Nothing of a text outlives its request: token ids are dropped with the batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from runtime.engine.batching import BatchLimits, BatchLoop
from runtime.engine.errors import EngineError, FailureReason, InvalidRequest, LoadError
from runtime.engine.onnx import OnnxSession
from runtime.engine.types import EngineStats, Failure

Vectors = npt.NDArray[np.float32]

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
EMBEDDING = "embedding"
LOGITS = "logits"
MAX_PADDING = 0.25
"""Largest share of a batch that may be padding, unless the oldest item is alone."""


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """Texts to embed or to classify, whichever the model does."""

    id: int
    inputs: tuple[str, ...] = field(repr=False)
    deadline: float | None = None

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InvalidRequest("inputs", "there is no input")
        for index, text in enumerate(self.inputs):
            if not text:
                raise InvalidRequest(f"inputs[{index}]", "the text is empty")


@dataclass(frozen=True, slots=True)
class EncodeDone:
    """A request's result: float32 [inputs, dim or labels], tokens per input."""

    id: int
    values: Vectors = field(repr=False)
    tokens: tuple[int, ...]
    queue_ms: int


EncodeEvent = EncodeDone | Failure
EncodeEmit = Callable[[EncodeEvent], None]


@dataclass(slots=True)
class _Pending:
    """A request whose inputs are not all computed yet."""

    emit: EncodeEmit
    values: Vectors
    tokens: tuple[int, ...]
    left: int
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class EncodeItem:
    """One input of a request; `ids` are its tokens."""

    request_id: int
    index: int
    ids: Sequence[int] = field(repr=False)
    deadline: float | None
    arrived: float


def choose_similar(waiting: list[EncodeItem], limit: int) -> list[EncodeItem]:
    """Pick the oldest item and those nearest to it in length, up to `limit`.

    Stops before padding passes `MAX_PADDING` of the batch. Pure.
    """
    by_length = sorted(waiting, key=lambda item: len(item.ids))
    low = high = by_length.index(waiting[0])
    total = len(waiting[0].ids)
    while high - low + 1 < min(limit, len(by_length)):
        shorter = by_length[low - 1] if low > 0 else None
        longer = by_length[high + 1] if high + 1 < len(by_length) else None
        here = len(waiting[0].ids)
        take_longer = shorter is None or (
            longer is not None and len(longer.ids) - here <= here - len(shorter.ids)
        )
        item = longer if take_longer else shorter
        if item is None:
            break
        longest = max(len(by_length[high].ids), len(item.ids))
        count = high - low + 2
        if 1 - (total + len(item.ids)) / (longest * count) > MAX_PADDING:
            break
        total += len(item.ids)
        low, high = (low, high + 1) if take_longer else (low - 1, high)
    return by_length[low : high + 1]


def load_tokenizer(data: bytes) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, without truncation and padding.

    Raises:
        LoadError: the library refused it.
    """
    try:
        tokenizer = Tokenizer.from_buffer(data)
    # The binding raises plain Exception.
    except Exception as error:
        raise LoadError("the tokenizer file is not usable") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def softmax(logits: Vectors) -> Vectors:
    """Probabilities along the last axis, computed without overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Vectors = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


class EncoderEngine:
    """Serves one encoder graph. `submit` and `cancel` are safe from any thread."""

    def __init__(
        self, session: OnnxSession, tokenizer: Tokenizer, max_tokens: int, limits: BatchLimits
    ) -> None:
        names = {spec.name for spec in session.inputs}
        outputs = [spec for spec in session.outputs if spec.name in (EMBEDDING, LOGITS)]
        if names != {INPUT_IDS, ATTENTION_MASK} or len(outputs) != 1:
            raise LoadError("the graph has not the inputs and output of an encoder bundle")
        self.width = outputs[0].shape[-1] if outputs[0].shape else -1
        if self.width < 1:
            raise LoadError(f"the graph's output {outputs[0].name!r} has no fixed width")
        self._output = outputs[0].name
        self._session = session
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._pending: dict[int, _Pending] = {}
        self._lock = threading.Lock()
        self._prompt_tokens = 0
        self._steps = 0
        self._loop: BatchLoop[EncodeItem] = BatchLoop(self, limits, "encoder")

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens the tokenizer knows."""
        return int(self._tokenizer.get_vocab_size())

    def start(self) -> None:
        """Start the engine's thread."""
        self._loop.start()

    def submit(self, request: EncodeRequest, emit: EncodeEmit) -> None:
        """Take a request; `emit` gets exactly one EncodeDone or Failure, maybe at once."""
        try:
            items = self._tokenize(request)
        except InvalidRequest as error:
            emit(Failure(request.id, error.reason, error.field, str(error)))
            return
        counts = tuple(len(item.ids) for item in items)
        values = np.empty((len(items), self.width), dtype=np.float32)
        with self._lock:
            self._pending[request.id] = _Pending(emit, values, counts, len(items))
        if not self._loop.submit(items):
            with self._lock:
                del self._pending[request.id]
            emit(Failure(request.id, FailureReason.CAPACITY, "", "too many inputs are waiting"))

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
        return EngineStats(
            running=running,
            waiting=waiting,
            prompt_tokens=self._prompt_tokens,
            steps=self._steps,
        )

    def _tokenize(self, request: EncodeRequest) -> list[EncodeItem]:
        encodings = self._tokenizer.encode_batch_fast(list(request.inputs))
        arrived = time.monotonic()
        items = []
        for index, encoding in enumerate(encodings):
            ids = encoding.ids
            if len(ids) > self._max_tokens:
                raise InvalidRequest(
                    f"inputs[{index}]",
                    f"the text has {len(ids)} tokens; the model takes {self._max_tokens}",
                )
            if not ids:
                raise InvalidRequest(f"inputs[{index}]", "the text has no tokens")
            items.append(EncodeItem(request.id, index, ids, request.deadline, arrived))
        return items

    def choose(self, waiting: list[EncodeItem], limit: int) -> list[EncodeItem]:
        """Pick items of similar length (for the loop)."""
        return choose_similar(waiting, limit)

    def run(self, batch: list[EncodeItem]) -> None:
        """Compute a batch and hand out what is complete (for the loop)."""
        started = time.monotonic()
        try:
            rows = self._compute(batch)
        except EngineError as error:
            for request_id in {item.request_id for item in batch}:
                self._finish(request_id, FailureReason.INTERNAL, str(error))
            return
        self._steps += 1
        for item, row in zip(batch, rows, strict=True):
            self._store(item, row, started)

    def drop(self, request_id: int, reason: FailureReason) -> None:
        """Report a cancelled or expired request (for the loop)."""
        self._finish(request_id, reason, "")

    def _compute(self, batch: list[EncodeItem]) -> Vectors:
        longest = max(len(item.ids) for item in batch)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, item in enumerate(batch):
            ids[row, : len(item.ids)] = item.ids
            mask[row, : len(item.ids)] = 1
        (values,) = self._session.run({INPUT_IDS: ids, ATTENTION_MASK: mask}, [self._output])
        if values.shape != (len(batch), self.width):
            raise EngineError("the graph gave an output of another shape than it declares")
        if not np.isfinite(values).all():
            raise EngineError("the graph gave NaN or infinity")
        result: Vectors = values.astype(np.float32, copy=False)
        return softmax(result) if self._output == LOGITS else result

    def _store(self, item: EncodeItem, row: Vectors, started: float) -> None:
        with self._lock:
            pending = self._pending.get(item.request_id)
            if pending is None:
                return
            self._prompt_tokens += len(item.ids)
            pending.started = pending.started or started
            pending.values[item.index] = row
            pending.left -= 1
            if pending.left:
                return
            del self._pending[item.request_id]
        queue_ms = max(0, int((pending.started - item.arrived) * 1000))
        pending.emit(EncodeDone(item.request_id, pending.values, pending.tokens, queue_ms))

    def _finish(self, request_id: int, reason: FailureReason, detail: str) -> None:
        with self._lock:
            pending = self._pending.pop(request_id, None)
        if pending is not None:
            pending.emit(Failure(request_id, reason, "", detail))
