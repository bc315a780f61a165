"""What came back for a probe, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from casemate.client.tensors import Tensor
from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.probes.requests import score_work, work_for
from security.errors import CasemateError

if TYPE_CHECKING:
    from runtime.models.host import Submitter
    from runtime.probes.model import Probe


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer. Only the fields of the probe's kind are set.

    Attributes:
        text: what was generated.
        tokens: its tokens with their runners-up.
        logprobs: natural-log probability of each scored text; of prompt and expected
            text together for generate.
        vectors: one embedding per input.
        labels: (label, probability) per input, most likely first.
        tensors: outputs by name.
    """

    text: str = field(default="", repr=False)
    tokens: tuple[text_pb2.TokenLogprob, ...] = field(default=(), repr=False)
    logprobs: tuple[float, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    labels: tuple[tuple[tuple[str, float], ...], ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


async def ask(target: Submitter, probe: Probe) -> Outcome:
    """Run one probe's request.

    Raises:
        CasemateError: the worker refused it, failed, or died.
    """
    text, tokens, completed = await _collect(target, work_for(probe))
    if probe.kind == "generate":
        logprobs: tuple[float, ...] = ()
        expected = probe.expect.get("text", text)
        if "prompt" in probe.request and expected:
            scored = await _collect(target, score_work([probe.request["prompt"] + expected]))
            logprobs = tuple(score.logprob for score in scored[2].score.scores)
        return Outcome(text=text, tokens=tokens, logprobs=logprobs)
    if probe.kind == "score":
        return Outcome(logprobs=tuple(score.logprob for score in completed.score.scores))
    if probe.kind == "embed":
        return Outcome(vectors=tuple(tuple(e.values) for e in completed.embed.embeddings))
    if probe.kind == "classify":
        found = completed.classify.classifications
        return Outcome(labels=tuple(tuple((s.label, s.score) for s in c.labels) for c in found))
    raw = completed.infer.raw_output_contents
    tensors = {
        output.name: Tensor.from_bytes(output.name, output.datatype, output.shape, block)
        for output, block in zip(completed.infer.outputs, raw, strict=True)
    }
    return Outcome(tensors=tensors)


async def _collect(
    target: Submitter, work: worker_pb2.Submit
) -> tuple[str, tuple[text_pb2.TokenLogprob, ...], worker_pb2.Completed]:
    texts: list[str] = []
    tokens: list[text_pb2.TokenLogprob] = []
    stream = target.submit(work)
    try:
        async for message in stream:
            if message.HasField("delta"):
                texts.append(message.delta.delta.text)
                tokens.extend(message.delta.delta.logprobs)
            elif message.HasField("completed"):
                return "".join(texts), tuple(tokens), message.completed
    finally:
        stream.cancel()
    raise CasemateError("the worker ended the answer without a result")
