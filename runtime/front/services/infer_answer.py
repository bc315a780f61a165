"""What ModelInfer answers: built here, from parts of a worker's answer that were checked.

A worker that was taken over answers what it likes. Nothing of its message is passed on
as it is: a graph's outputs are written anew from name, datatype, shape and raw bytes,
each checked against what the graph was said to give when it was loaded; vectors and
labels are checked against the manifest. What does not fit ends the call with INTERNAL.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from casemate.pb.inference import inference_pb2
from runtime.filters.rules import RuleSet
from runtime.front.call import Call
from runtime.front.errors import broken_answer
from runtime.front.services.tensors import (
    BYTES,
    MAX_RANK,
    MAX_TEXT_ELEMENTS,
    add_output,
    pack_elements,
    raw_size,
    split_elements,
)
from runtime.front.spec import OutFilter
from security.bundle.manifest import BundleManifest

_MAX_OUTPUTS = 64


@runtime_checkable
class DescribesTensors(Protocol):
    """A host whose worker has said which tensors its graph takes."""

    @property
    def ready_message(self) -> worker_pb2.Ready | None:
        """What the worker said; None while there is none."""
        ...


def outputs_of(host: object) -> list[worker_pb2.TensorSpec]:
    """Return what the worker said of its graph's outputs when it had loaded it."""
    ready = host.ready_message if isinstance(host, DescribesTensors) else None
    return list(ready.outputs) if ready is not None else []


def graph_answer(
    request: inference_pb2.ModelInferRequest,
    answer: inference_pb2.ModelInferResponse,
    specs: Sequence[worker_pb2.TensorSpec],
) -> inference_pb2.ModelInferResponse:
    """Return a response with the outputs of `answer`, and nothing else of it.

    Raises:
        Refusal: INTERNAL, when an output is not one of `specs`, was not asked for, or
            does not fill its shape.
    """
    if not len(answer.outputs) == len(answer.raw_output_contents) <= _MAX_OUTPUTS:
        raise broken_answer("a wrong number of outputs")
    known = {spec.name: spec for spec in specs}
    wanted = {output.name for output in request.outputs} or set(known)
    response = inference_pb2.ModelInferResponse()
    texts = 0
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if output.name not in wanted or output.name not in known:
            raise broken_answer("an output that was not asked for, or twice")
        wanted.remove(output.name)
        spec = known[output.name]
        _check_shape(output.shape, spec.shape)
        count = math.prod(output.shape)
        texts += count if spec.datatype == BYTES else 0
        fills = texts <= MAX_TEXT_ELEMENTS and _fills(raw, spec.datatype, count)
        if output.datatype != spec.datatype or not fills:
            raise broken_answer("an output that does not fill its shape")
        add_output(response, spec.name, spec.datatype, output.shape, raw)
    if wanted:
        raise broken_answer("too few outputs")
    return response


def _check_shape(shape: Sequence[int], spec: Sequence[int]) -> None:
    fits = len(shape) == len(spec) <= MAX_RANK and all(
        size >= 0 and (size == fixed or fixed < 0) for size, fixed in zip(shape, spec, strict=True)
    )
    if not fits:
        raise broken_answer("an output of another shape")


def _fills(raw: bytes, datatype: str, count: int) -> bool:
    if datatype == BYTES:
        return split_elements(raw, count) is not None
    return len(raw) == raw_size(datatype, count)


def check_embeddings(
    manifest: BundleManifest, results: Sequence[text_pb2.Embedding], count: int
) -> int:
    """Return the vectors' dimension; refuse another number or size of vectors."""
    dim = manifest.encoder.dim if manifest.encoder else 0
    if len(results) != count or any(len(result.values) != dim for result in results):
        raise broken_answer("vectors of another number or size")
    return dim


def check_labels(
    manifest: BundleManifest, results: Sequence[text_pb2.Classification], count: int
) -> tuple[str, ...]:
    """Return the manifest's labels; refuse results that do not give each of them once."""
    labels = manifest.encoder.labels if manifest.encoder else ()
    order = sorted(labels)
    if len(results) != count or any(
        len(result.labels) != len(order) or sorted(item.label for item in result.labels) != order
        for result in results
    ):
        raise broken_answer("labels that are not the model's")
    return labels


def keep_requested(
    request: inference_pb2.ModelInferRequest, response: inference_pb2.ModelInferResponse
) -> None:
    """Drop the outputs that were not asked for."""
    wanted = {output.name for output in request.outputs}
    if not wanted:
        return
    for index in reversed(range(len(response.outputs))):
        if response.outputs[index].name not in wanted:
            del response.outputs[index]
            del response.raw_output_contents[index]


class InferFilter(OutFilter):
    """Applies the rules to every element of every BYTES output."""

    def __init__(self, call: Call, rules: RuleSet) -> None:
        self._call = call
        self._rules = rules

    def feed(
        self, message: inference_pb2.ModelInferResponse
    ) -> Iterable[inference_pb2.ModelInferResponse]:
        """Return the message with its texts filtered; a blocked one ends before the match."""
        for index, output in enumerate(message.outputs):
            if output.datatype != BYTES:
                continue
            raw = message.raw_output_contents[index]
            elements = split_elements(raw, math.prod(output.shape))
            if elements is None:
                raise broken_answer("an output that does not fill its shape")
            filtered = [self._element(element, message) for element in elements]
            if filtered != elements:
                message.raw_output_contents[index] = pack_elements(filtered)
        return (message,)

    def _element(self, element: bytes, message: Any) -> bytes:
        try:
            text = element.decode()
        except UnicodeDecodeError:
            raise broken_answer("an output that is not UTF-8") from None
        outcome = self._rules.apply(text)
        verdicts = self._call.verdicts
        verdicts.extend(v for v in outcome.verdicts if v not in verdicts)
        if outcome.blocked:
            message.parameters["casemate_filtered"].bool_param = True
        return outcome.text.encode() if outcome.verdicts else element
