"""From a probe's request to the work a worker is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casemate.client.tensors import Tensor
from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from casemate.pb.inference import inference_pb2
from runtime.probes.model import Probe
from security.errors import BundleError, UsageError

# Prefix caches are kept per tenant. Probes have one of their own, so that what they
# leave behind is never reused for anybody else.
PROBE_TENANT = b"casemate probes"
DEFAULT_MAX_TOKENS = 16


def work_for(probe: Probe) -> worker_pb2.Submit:
    """Return the work that a probe asks for.

    Raises:
        BundleError: reason "bad-probes": its request lacks a field or has a wrong type.
    """
    build = _BUILDERS[probe.kind]
    try:
        return build(probe.request)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise BundleError(
            "bad-probes", f"probe {probe.id}: its request is no {probe.kind} request"
        ) from error


def score_work(texts: list[str]) -> worker_pb2.Submit:
    """Return work that scores texts."""
    return worker_pb2.Submit(tenant=PROBE_TENANT, score=text_pb2.ScoreRequest(texts=texts))


def _generate(request: Mapping[str, Any]) -> worker_pb2.Submit:
    """Greedy, with the runner-up of each token, which recording wants to know."""
    generate = text_pb2.GenerateRequest(
        sampling=text_pb2.Sampling(
            temperature=0.0, repetition_penalty=1.0, presence_penalty=0.0, seed=0
        ),
        max_tokens=int(request.get("max_tokens", DEFAULT_MAX_TOKENS)),
        logprobs=True,
        top_logprobs=2,
    )
    if "chat" in request:
        for message in request["chat"]:
            generate.chat.messages.add(role=message["role"], content=message["content"])
    else:
        generate.prompt = request["prompt"]
    return worker_pb2.Submit(tenant=PROBE_TENANT, generate=generate)


def _score(request: Mapping[str, Any]) -> worker_pb2.Submit:
    return score_work(list(request["texts"]))


def _embed(request: Mapping[str, Any]) -> worker_pb2.Submit:
    embed = text_pb2.EmbedRequest(inputs=request["inputs"])
    return worker_pb2.Submit(tenant=PROBE_TENANT, embed=embed)


def _classify(request: Mapping[str, Any]) -> worker_pb2.Submit:
    classify = text_pb2.ClassifyRequest(inputs=request["inputs"])
    return worker_pb2.Submit(tenant=PROBE_TENANT, classify=classify)


def _tensor(request: Mapping[str, Any]) -> worker_pb2.Submit:
    infer = inference_pb2.ModelInferRequest()
    for item in request["inputs"]:
        tensor = Tensor(item["name"], item["datatype"], tuple(item["shape"]), item["data"])
        infer.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        infer.raw_input_contents.append(tensor.to_bytes())
    return worker_pb2.Submit(tenant=PROBE_TENANT, infer=infer)


_BUILDERS = {
    "generate": _generate,
    "score": _score,
    "embed": _embed,
    "classify": _classify,
    "tensor": _tensor,
}
