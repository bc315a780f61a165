"""ModelInfer: graphs as they are, and text models through `text_input`.

| task | input | outputs |
| --- | --- | --- |
| generate | text_input BYTES [n] | text_output BYTES [n] |
| embed | text_input BYTES [n] | embedding FP32 [n, dim] |
| classify | text_input BYTES [n] | label BYTES [n], score FP32 [n, labels] |
| tensor | the graph's own | the graph's own |

Refuses token tensors for text models: they would pass by the filters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from casemate.pb.inference import inference_pb2
from runtime.config import LimitsConfig
from runtime.front.call import Call
from runtime.front.errors import invalid
from runtime.front.services.generate import (
    check_max_tokens,
    check_sampling,
    check_stops,
    default_max_tokens,
)
from runtime.front.services.infer_answer import (
    InferFilter,
    check_embeddings,
    check_labels,
    graph_answer,
    keep_requested,
    outputs_of,
)
from runtime.front.services.infer_generate import MakeRequest, Places, generate_all
from runtime.front.services.tensors import (
    BYTES,
    MAX_TEXT_ELEMENTS,
    add_output,
    pack_elements,
    read_inputs,
    replace_texts,
)
from runtime.front.services.texts import pack_floats
from runtime.front.services.work import (
    completed,
    estimated_tokens,
    served_of,
    submit,
)
from runtime.front.spec import Handler, OutFilter
from runtime.front.validate import require_texts
from runtime.policy.model import RoleLimits

TEXT_INPUT = "text_input"
OUTPUTS = {
    "generate": ("text_output",),
    "embed": ("embedding",),
    "classify": ("label", "score"),
}
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty")
_WHOLE = ("max_tokens", "top_k", "seed")
_PARAMETERS = frozenset({"max_tokens", "seed", "stop", *_SAMPLING})


def _parameter(request: inference_pb2.ModelInferRequest, name: str) -> Any:
    """Return a parameter's value as the type it must have; raise a Refusal otherwise."""
    parameter = request.parameters[name]
    field = f"parameters[{name}]"
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind else None
    if name == "stop":
        if not isinstance(value, str):
            raise invalid(field, "must be a string_param", "WRONG_DATATYPE")
    elif name in _WHOLE:
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(field, "must be a whole number", "WRONG_DATATYPE")
        if not 0 <= value < 1 << (64 if name == "seed" else 31):
            raise invalid(field, "is out of range", "OUT_OF_RANGE")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(field, "must be a number", "WRONG_DATATYPE")
    return value


def _generate_request(request: inference_pb2.ModelInferRequest) -> text_pb2.GenerateRequest:
    """Return a GenerateRequest with the call's parameters and no prompt."""
    wire = text_pb2.GenerateRequest(model=request.model_name, version=request.model_version)
    for name in request.parameters:
        if name not in _PARAMETERS:
            raise invalid(f"parameters[{name[:64]}]", "is unknown", "UNKNOWN_PARAMETER")
        value = _parameter(request, name)
        if name == "stop":
            wire.stop.append(value)
        elif name == "max_tokens":
            wire.max_tokens = value
        else:
            setattr(wire.sampling, name, value)
    return wire


def _stop(request: inference_pb2.ModelInferRequest) -> str:
    return request.parameters["stop"].string_param if "stop" in request.parameters else ""


@dataclass(slots=True, eq=False)
class InferInputs:
    """A request whose inputs have been read.

    Attributes:
        wire: the request, every input raw.
        texts: the elements of its BYTES inputs, in order.
    """

    wire: inference_pb2.ModelInferRequest
    texts: list[str] = field(repr=False)


class ModelInfer(Handler):
    """One inference call."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._places = Places()

    def model(self, request: inference_pb2.ModelInferRequest) -> tuple[str, str]:
        """Return the model that is named."""
        return request.model_name, request.model_version

    def validate(self, call: Call) -> None:
        """Check the inputs, the outputs asked for, and the parameters.

        From here on `call.request` is an `InferInputs`: the texts are read once.
        """
        request: inference_pb2.ModelInferRequest = call.request
        manifest = served_of(call).manifest
        graph = manifest.task == "tensor"
        texts = read_inputs(request, MAX_TEXT_ELEMENTS if graph else self._limits.max_inputs)
        call.request = InferInputs(request, texts)
        if graph:
            limit = self._limits.max_prompt_bytes
            if any(len(text.encode()) > limit for text in texts):
                raise invalid("inputs", f"an element is over {limit} bytes", "TEXT_TOO_LONG")
            return
        tensor = request.inputs[0]
        if len(request.inputs) != 1 or tensor.name != TEXT_INPUT:
            raise invalid("inputs", f"a text model takes one input, {TEXT_INPUT}", "UNKNOWN_INPUT")
        if tensor.datatype != BYTES:
            raise invalid("inputs[0].datatype", "must be BYTES", "WRONG_DATATYPE")
        if len(tensor.shape) != 1:
            raise invalid("inputs[0].shape", "must have one dimension", "WRONG_SHAPE")
        require_texts(TEXT_INPUT, texts, self._limits.max_inputs, self._limits.max_prompt_bytes)
        for index, output in enumerate(request.outputs):
            if output.name not in OUTPUTS[manifest.task]:
                raise invalid(f"outputs[{index}].name", "no such output", "UNKNOWN_OUTPUT")
        if manifest.task == "generate":
            wire = _generate_request(request)
            limits = call.role.limits if call.role else RoleLimits()
            check_sampling(wire.sampling, "parameters.")
            check_stops(wire.stop, "parameters[stop]")
            check_max_tokens(wire.max_tokens, manifest, limits)
        elif request.parameters:
            name = next(iter(request.parameters))
            raise invalid(f"parameters[{name[:64]}]", "is unknown", "UNKNOWN_PARAMETER")

    def estimate_tokens(self, call: Call) -> int:
        """Return the texts' estimate, and what may be generated."""
        texts = call.request.texts
        manifest = served_of(call).manifest
        call.estimated_prompt_tokens = estimated_tokens(texts)
        if manifest.task != "generate":
            return call.estimated_prompt_tokens
        wire = _generate_request(call.request.wire)
        limits = call.role.limits if call.role else RoleLimits()
        each = wire.max_tokens or default_max_tokens(manifest, limits)
        return call.estimated_prompt_tokens + len(texts) * each

    def texts(self, request: InferInputs) -> Sequence[str]:
        """Return the BYTES elements, and the stop string."""
        stop = _stop(request.wire)
        return [*request.texts, stop] if stop else request.texts

    def replace_texts(self, request: InferInputs, texts: Sequence[str]) -> None:
        """Put the redacted texts in place."""
        count = len(request.texts)
        if _stop(request.wire):
            request.wire.parameters["stop"].string_param = texts[count]
        request.texts = list(texts[:count])
        replace_texts(request.wire, request.texts)

    def request_parts(self, request: InferInputs) -> Iterator[bytes]:
        """Yield each input's name and raw bytes."""
        wire = request.wire
        for tensor, raw in zip(wire.inputs, wire.raw_input_contents, strict=True):
            yield tensor.name.encode()
            yield raw

    async def answer(self, call: Call) -> AsyncIterator[inference_pb2.ModelInferResponse]:
        """Yield the one answer."""
        served = served_of(call)
        request: inference_pb2.ModelInferRequest = call.request.wire
        if served.manifest.task == "tensor":
            stream = submit(call, worker_pb2.Submit(infer=request))
            # Of the worker that has the work: another might be there when it is done.
            specs = outputs_of(served.host)
            response = graph_answer(request, (await completed(call, stream)).infer, specs)
        else:
            response = await self._texts(call, served.manifest.task)
            keep_requested(request, response)
        response.model_name, response.model_version = served.name, served.version
        response.id = request.id
        response.parameters["casemate_request_id"].string_param = call.request_id
        response.parameters["casemate_bundle_digest"].string_param = served.digest
        yield response

    async def _texts(self, call: Call, task: str) -> inference_pb2.ModelInferResponse:
        texts: list[str] = call.request.texts
        response = inference_pb2.ModelInferResponse()
        count = len(texts)
        manifest = served_of(call).manifest
        if task == "generate":
            answers = await generate_all(call, texts, self._one_request(call), self._places)
            add_output(response, "text_output", BYTES, [count], pack_elements(answers))
        elif task == "embed":
            work = worker_pb2.Submit(embed=text_pb2.EmbedRequest(inputs=texts))
            vectors = (await completed(call, submit(call, work))).embed.embeddings
            dim = check_embeddings(manifest, vectors, count)
            raw = b"".join(pack_floats(vector.values) for vector in vectors)
            add_output(response, "embedding", "FP32", [count, dim], raw)
        else:
            work = worker_pb2.Submit(classify=text_pb2.ClassifyRequest(inputs=texts))
            results = (await completed(call, submit(call, work))).classify.classifications
            order = check_labels(manifest, results, count)
            best = [result.labels[0].label.encode() for result in results]
            scores = [{item.label: item.score for item in result.labels} for result in results]
            raw = b"".join(pack_floats([row[label] for label in order]) for row in scores)
            add_output(response, "label", BYTES, [count], pack_elements(best))
            add_output(response, "score", "FP32", [count, len(order)], raw)
        return response

    def _one_request(self, call: Call) -> MakeRequest:
        """Return what makes the request for one text."""
        limits = call.role.limits if call.role else RoleLimits()
        template = _generate_request(call.request.wire)
        manifest = served_of(call).manifest
        template.max_tokens = check_max_tokens(template.max_tokens, manifest, limits)

        def make(text: str) -> text_pb2.GenerateRequest:
            wire = text_pb2.GenerateRequest(prompt=text)
            wire.MergeFrom(template)
            return wire

        return make

    def out_filter(self, call: Call) -> OutFilter:
        """Return the filter for BYTES outputs."""
        return InferFilter(call, call.rules_out) if call.rules_out else OutFilter()

    def answer_parts(self, call: Call, message: Any) -> Iterable[bytes]:
        """Return each output's name and raw bytes."""
        if message is None:
            return ()
        pairs = zip(message.outputs, message.raw_output_contents, strict=True)
        return (part for output, raw in pairs for part in (output.name.encode(), raw))
