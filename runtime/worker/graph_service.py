"""Serves ONNX graphs: encoders (embed, classify) and plain tensors.

Imported before the sandbox closes: everything it will ever need is imported here.
"""

from __future__ import annotations

import os

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.engine.batching import BatchLimits
from runtime.engine.encoder import EncodeEvent, EncoderEngine, load_tokenizer
from runtime.engine.errors import FailureReason, InvalidRequest, LoadError
from runtime.engine.onnx import OnnxSession
from runtime.engine.tensor_engine import TensorEngine, TensorEvent
from runtime.engine.tensors import TensorSpec
from runtime.engine.types import EngineStats, Failure
from runtime.worker import convert, convert_encoder, convert_tensors
from runtime.worker.service import Send, descriptor_path
from security.bundle.manifest import BundleManifest, Variant

# Inputs that may wait for each request that may: requests carry many.
_INPUTS_PER_REQUEST = 64
_READ_BYTES = 1 << 20


def _limits(load: worker_pb2.LoadModel, max_queue: int) -> BatchLimits:
    return BatchLimits(
        max_batch=load.max_batch,
        max_delay_seconds=load.max_queue_delay_us / 1e6,
        max_waiting=max_queue * _INPUTS_PER_REQUEST,
    )


def _refuse(send: Send, work: worker_pb2.Submit, error: InvalidRequest) -> None:
    failure = Failure(work.id, error.reason, error.field, str(error))
    send(convert.failure_message(failure))


def _wire_specs(specs: tuple[TensorSpec, ...]) -> list[worker_pb2.TensorSpec]:
    return [
        worker_pb2.TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        for spec in specs
    ]


class EncoderService:
    """Embed or classify, by the bundle's task."""

    def __init__(
        self,
        load: worker_pb2.LoadModel,
        manifest: BundleManifest,
        variant: Variant,
        send: Send,
        max_queue: int,
    ) -> None:
        """Load graph and tokenizer and start the engine; raises EngineError."""
        if manifest.tokenizer is None or manifest.encoder is None:
            raise LoadError("the bundle has no tokenizer or no encoder section")
        session = OnnxSession(descriptor_path(load, variant.file), load.threads)
        self._engine = EncoderEngine(
            session,
            load_tokenizer(_read(load.descriptors[manifest.tokenizer.file])),
            manifest.limits.context_tokens,
            _limits(load, max_queue),
        )
        self._labels = manifest.encoder.labels
        expected = len(self._labels) if manifest.task == "classify" else manifest.encoder.dim
        if self._engine.width != expected:
            raise LoadError(f"the graph gives {self._engine.width} values, not {expected}")
        self._task = manifest.task
        self._context = manifest.limits.context_tokens
        self._send = send
        self._session = session
        self._engine.start()

    def ready(self) -> worker_pb2.Ready:
        """Describe the model."""
        return worker_pb2.Ready(
            context_tokens=self._context,
            vocabulary=self._engine.vocabulary_size,
            embedding_dim=self._engine.width if self._task == "embed" else 0,
            inputs=_wire_specs(self._session.inputs),
            outputs=_wire_specs(self._session.outputs),
        )

    def submit(self, work: worker_pb2.Submit) -> None:
        """Take an embed or a classify, whichever the model does."""
        try:
            if work.WhichOneof("work") != self._task:
                raise InvalidRequest(
                    "model", f"the model's task is {self._task}", FailureReason.UNSUPPORTED
                )
            self._engine.submit(convert_encoder.encode_request(work), self._emit)
        except InvalidRequest as error:
            _refuse(self._send, work, error)

    def _emit(self, event: EncodeEvent) -> None:
        if isinstance(event, Failure):
            self._send(convert.failure_message(event))
        elif self._task == "classify":
            self._send(convert_encoder.classify_message(event, self._labels))
        else:
            self._send(convert_encoder.embed_message(event))

    def cancel(self, request_id: int) -> None:
        """Give a request up."""
        self._engine.cancel(request_id)

    def stats(self) -> EngineStats:
        """Gauges for the heartbeat."""
        return self._engine.stats()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread is at work."""
        return self._engine.alive

    def drain(self) -> None:
        """Finish every request that was taken; blocks."""
        self._engine.drain()


class TensorService:
    """The Open Inference Protocol on the graph itself."""

    def __init__(
        self,
        load: worker_pb2.LoadModel,
        manifest: BundleManifest,
        variant: Variant,
        send: Send,
        max_queue: int,
    ) -> None:
        """Load the graph and start the engine; raises EngineError."""
        session = OnnxSession(descriptor_path(load, variant.file), load.threads)
        self._engine = TensorEngine(session, _limits(load, max_queue))
        self._session = session
        self._send = send
        self._context = manifest.limits.context_tokens
        self._engine.start()

    def ready(self) -> worker_pb2.Ready:
        """Describe the graph."""
        return worker_pb2.Ready(
            context_tokens=self._context,
            inputs=_wire_specs(self._session.inputs),
            outputs=_wire_specs(self._session.outputs),
        )

    def submit(self, work: worker_pb2.Submit) -> None:
        """Take an infer."""
        try:
            if not work.HasField("infer"):
                raise InvalidRequest("model", "the model takes tensors", FailureReason.UNSUPPORTED)
            self._engine.submit(convert_tensors.tensor_request(work), self._emit)
        except InvalidRequest as error:
            _refuse(self._send, work, error)

    def _emit(self, event: TensorEvent) -> None:
        if isinstance(event, Failure):
            self._send(convert.failure_message(event))
        else:
            self._send(convert_tensors.tensor_message(event, self._session.outputs))

    def cancel(self, request_id: int) -> None:
        """Give a request up."""
        self._engine.cancel(request_id)

    def stats(self) -> EngineStats:
        """Gauges for the heartbeat."""
        return self._engine.stats()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread is at work."""
        return self._engine.alive

    def drain(self) -> None:
        """Finish every request that was taken; blocks."""
        self._engine.drain()


def _read(descriptor: int) -> bytes:
    """Read a sealed memory file, whatever its size; the front has bounded that."""
    pieces = []
    offset = 0
    while piece := os.pread(descriptor, _READ_BYTES, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)
