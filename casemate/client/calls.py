"""Every unary call as a value: what is sent, and how what comes back is read.

The two clients differ only in how they wait; what they send and read is here, once.
A call also knows the parts that the audit log commits to (docs/formats/receipt.md),
so that its receipt can be checked against what was really said.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message as Proto

from casemate.client import types
from casemate.client.exchange import Exchange, Parts, Trailer, about_inference, answered
from casemate.client.tensors import Tensor
from casemate.pb.casemate.v1 import audit_pb2, model_pb2, text_pb2
from casemate.pb.inference import inference_pb2

T = TypeVar("T")
TEXT = "/casemate.v1.TextService/"
MODELS = "/casemate.v1.ModelService/"
AUDIT = "/casemate.v1.AuditService/"
OIP = "/inference.GRPCInferenceService/"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call.

    Attributes:
        method: its path.
        request: what is sent.
        response: the class of what comes back.
        read: turns that into a result.
        idempotent: whether making it twice is the same as once.
        asked: the model and version that the request names.
        request_parts: what the receipt commits to of the request; None: no receipt.
        answer_parts: the same of the answer.
        about: reads what the answer says of itself.
    """

    method: str
    request: Proto
    response: type[Any]
    read: Callable[[Any, Trailer], T]
    idempotent: bool = True
    asked: tuple[str, str] = ("", "")
    request_parts: Parts | None = None
    answer_parts: Callable[[Any], Parts] = lambda answer: ()
    about: Callable[[Any, Trailer], types.Answered] = answered

    def exchange(self, answer: Any, trailer: Trailer) -> Exchange | None:
        """Return what the receipt must agree with; None for a call without one."""
        if self.request_parts is None:
            return None
        return Exchange(
            self.method,
            *self.asked,
            self.about(answer, trailer),
            trailer,
            self.request_parts,
            self.answer_parts(answer),
        )


def score(model: str, version: str, texts: Sequence[str]) -> Call[types.Scores]:
    """Log-probability of texts, per token."""
    return Call(
        TEXT + "Score",
        text_pb2.ScoreRequest(model=model, version=version, texts=texts),
        text_pb2.ScoreResponse,
        lambda answer, trailer: types.Scores(
            answered(answer, trailer),
            tuple(types.TextScore(each.logprob, tokens(each.tokens)) for each in answer.scores),
            usage(answer.usage),
        ),
        asked=(model, version),
        request_parts=_encoded(texts),
        answer_parts=lambda answer: tuple(
            _floats([token.logprob for token in each.tokens]) for each in answer.scores
        ),
    )


def embed(model: str, version: str, inputs: Sequence[str]) -> Call[types.Embeddings]:
    """One vector per text."""
    return Call(
        TEXT + "Embed",
        text_pb2.EmbedRequest(model=model, version=version, inputs=inputs),
        text_pb2.EmbedResponse,
        lambda answer, trailer: types.Embeddings(
            answered(answer, trailer),
            tuple(tuple(each.values) for each in answer.embeddings),
            usage(answer.usage),
        ),
        asked=(model, version),
        request_parts=_encoded(inputs),
        answer_parts=lambda answer: tuple(_floats(each.values) for each in answer.embeddings),
    )


def classify(model: str, version: str, inputs: Sequence[str]) -> Call[types.Classifications]:
    """Label probabilities per text."""
    return Call(
        TEXT + "Classify",
        text_pb2.ClassifyRequest(model=model, version=version, inputs=inputs),
        text_pb2.ClassifyResponse,
        lambda answer, trailer: types.Classifications(
            answered(answer, trailer),
            tuple(
                tuple(types.Label(label.label, label.score) for label in each.labels)
                for each in answer.classifications
            ),
            usage(answer.usage),
        ),
        asked=(model, version),
        request_parts=_encoded(inputs),
        answer_parts=lambda answer: tuple(
            b"".join(item.label.encode() + b"\0" + _floats([item.score]) for item in each.labels)
            for each in answer.classifications
        ),
    )


def infer(
    model: str,
    version: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[str],
    parameters: Mapping[str, bool | int | float | str],
) -> Call[types.Inference]:
    """An Open Inference Protocol call with raw tensors."""
    request = inference_pb2.ModelInferRequest(model_name=model, model_version=version)
    parts: list[bytes] = []
    for tensor in inputs:
        raw = tensor.to_bytes()
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(raw)
        parts += [tensor.name.encode(), raw]
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in parameters.items():
        _set_parameter(request.parameters[name], value)
    return Call(
        OIP + "ModelInfer",
        request,
        inference_pb2.ModelInferResponse,
        _read_inference,
        asked=(model, version),
        request_parts=tuple(parts),
        about=about_inference,
        answer_parts=lambda answer: tuple(
            part
            for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
            for part in (output.name.encode(), raw)
        ),
    )


def list_models() -> Call[tuple[types.ModelInfo, ...]]:
    """Every model this identity may see."""
    return Call(
        MODELS + "ListModels",
        model_pb2.ListModelsRequest(),
        model_pb2.ListModelsResponse,
        lambda answer, _: tuple(_model(each) for each in answer.models),
    )


def describe(model: str, version: str) -> Call[types.ModelDetails]:
    """A model and the signed manifest of one version."""
    return Call(
        MODELS + "DescribeModel",
        model_pb2.DescribeModelRequest(model=model, version=version),
        model_pb2.DescribeModelResponse,
        lambda answer, _: types.ModelDetails(
            _model(answer.model), answer.bundle_json, answer.context_tokens, answer.max_sequences
        ),
        asked=(model, version),
    )


def install(incoming: str, stage_only: bool) -> Call[types.Operation]:
    """Install a bundle that lies in the store's incoming folder."""
    return Call(
        MODELS + "InstallBundle",
        model_pb2.InstallBundleRequest(incoming=incoming, stage_only=stage_only),
        model_pb2.InstallBundleResponse,
        lambda answer, _: types.Operation(
            answer.model, _version(answer.version), answer.probes_passed
        ),
        idempotent=False,
    )


def promote(model: str, version: str) -> Call[types.Operation]:
    """Make a version live."""
    return Call(
        MODELS + "PromoteVersion",
        model_pb2.PromoteVersionRequest(model=model, version=version),
        model_pb2.PromoteVersionResponse,
        lambda answer, _: types.Operation(model, _version(answer.version), answer.probes_passed),
        idempotent=False,
    )


def rollback(model: str) -> Call[types.Operation]:
    """Make the previous version live."""
    return Call(
        MODELS + "RollbackModel",
        model_pb2.RollbackModelRequest(model=model),
        model_pb2.RollbackModelResponse,
        lambda answer, _: types.Operation(model, _version(answer.version), 0),
        idempotent=False,
    )


def checkpoint() -> Call[bytes]:
    """The log's newest signed checkpoint."""
    return Call(
        AUDIT + "GetCheckpoint",
        audit_pb2.GetCheckpointRequest(),
        audit_pb2.GetCheckpointResponse,
        lambda answer, _: bytes(answer.checkpoint),
    )


def inclusion(index: int, tree_size: int) -> Call[types.InclusionAnswer]:
    """Proof that an entry is in the log."""
    return Call(
        AUDIT + "GetInclusionProof",
        audit_pb2.GetInclusionProofRequest(index=index, tree_size=tree_size),
        audit_pb2.GetInclusionProofResponse,
        lambda answer, _: types.InclusionAnswer(
            answer.index, answer.tree_size, tuple(answer.hashes), answer.checkpoint
        ),
    )


def consistency(old_size: int, new_size: int) -> Call[types.ConsistencyAnswer]:
    """Proof that the log only grew."""
    return Call(
        AUDIT + "GetConsistencyProof",
        audit_pb2.GetConsistencyProofRequest(old_size=old_size, new_size=new_size),
        audit_pb2.GetConsistencyProofResponse,
        lambda answer, _: types.ConsistencyAnswer(
            answer.old_size, answer.new_size, tuple(answer.hashes), answer.checkpoint
        ),
    )


def usage(message: text_pb2.Usage) -> types.Usage:
    """Read token counts."""
    return types.Usage(message.prompt_tokens, message.completion_tokens, message.cached_tokens)


def tokens(messages: Sequence[text_pb2.TokenLogprob]) -> tuple[types.Token, ...]:
    """Read tokens with their alternatives."""
    return tuple(
        types.Token(
            each.token,
            each.logprob,
            tuple(types.Alternative(other.token, other.logprob) for other in each.alternatives),
        )
        for each in messages
    )


def _read_inference(answer: Any, trailer: Trailer) -> types.Inference:
    outputs = tuple(
        Tensor.from_bytes(output.name, output.datatype, output.shape, raw)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    )
    return types.Inference(about_inference(answer, trailer), outputs)


def _set_parameter(parameter: Any, value: bool | float | str) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _model(message: model_pb2.Model) -> types.ModelInfo:
    return types.ModelInfo(
        message.name, message.task, tuple(_version(each) for each in message.versions)
    )


def _version(message: model_pb2.ModelVersion) -> types.VersionInfo:
    name = model_pb2.VersionState.Name(message.state)
    return types.VersionInfo(
        message.version,
        name.removeprefix("VERSION_STATE_").lower(),
        message.bundle_digest,
        message.security_epoch,
        message.since_ms,
        message.reason,
        message.ready,
        _privacy(message.privacy) if message.HasField("privacy") else None,
        message.variant,
    )


def _privacy(message: model_pb2.PrivacyClaim) -> types.PrivacyInfo:
    return types.PrivacyInfo(
        message.epsilon,
        message.delta,
        message.unit,
        message.contributions,
        message.audited,
        message.audited_epsilon,
        message.audit_ceiling,
        message.user_field,
    )


def _encoded(texts: Sequence[str]) -> Parts:
    return tuple(text.encode() for text in texts)


def _floats(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)
