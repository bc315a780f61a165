"""Protobuf to engine values and back, for texts: generate, score, embed, classify.

Lives in the worker, so that the engine knows nothing of the wire. Unset fields take
the bundle's serving defaults here; what a field may hold is checked by the engine's
own types, whose `InvalidRequest` names the field.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.engine import types
from runtime.engine.errors import FailureReason, InvalidRequest
from security.bundle.manifest import BundleManifest, ServingDefaults

FINISH_REASONS = {
    types.FinishReason.END: text_pb2.FINISH_REASON_END,
    types.FinishReason.STOP: text_pb2.FINISH_REASON_STOP,
    types.FinishReason.LENGTH: text_pb2.FINISH_REASON_LENGTH,
}

FAILURE_REASONS = {
    FailureReason.INVALID_ARGUMENT: worker_pb2.FAILURE_REASON_INVALID_ARGUMENT,
    FailureReason.CAPACITY: worker_pb2.FAILURE_REASON_CAPACITY,
    FailureReason.DEADLINE: worker_pb2.FAILURE_REASON_DEADLINE,
    FailureReason.CANCELLED: worker_pb2.FAILURE_REASON_CANCELLED,
    FailureReason.INTERNAL: worker_pb2.FAILURE_REASON_INTERNAL,
    FailureReason.UNSUPPORTED: worker_pb2.FAILURE_REASON_UNSUPPORTED,
    FailureReason.LOAD: worker_pb2.FAILURE_REASON_LOAD,
}


def deadline_of(work: worker_pb2.Submit) -> float | None:
    """Return the request's deadline on this process's monotonic clock, in seconds."""
    return time.monotonic() + work.deadline_ms / 1000 if work.deadline_ms else None


def generate_request(work: worker_pb2.Submit, manifest: BundleManifest) -> types.GenerateRequest:
    """Return the engine's request; raises InvalidRequest."""
    wire = work.generate
    limit = manifest.limits.max_output_tokens
    if wire.max_tokens > limit:
        raise InvalidRequest("max_tokens", f"max_tokens must be at most {limit} for this model")
    return types.GenerateRequest(
        id=work.id,
        tenant=work.tenant,
        prompt=_prompt(wire),
        sampling=_sampling(wire.sampling, manifest.serving_defaults),
        max_tokens=wire.max_tokens or min(manifest.serving_defaults.max_tokens, limit),
        stop=tuple(wire.stop),
        logprobs=wire.logprobs,
        top_logprobs=wire.top_logprobs,
        deadline=deadline_of(work),
        # Nobody asked for the default length: a long prompt shortens it.
        fit_context=wire.max_tokens == 0,
    )


def _prompt(wire: text_pb2.GenerateRequest) -> types.Prompt:
    if wire.WhichOneof("input") == "chat":
        messages = (types.ChatMessage(item.role, item.content) for item in wire.chat.messages)
        return types.ChatPrompt(tuple(messages))
    return types.TextPrompt(wire.prompt)


def _sampling(wire: text_pb2.Sampling, defaults: ServingDefaults) -> types.SamplingParams:
    def pick(name: str) -> float:
        value: float = getattr(wire if wire.HasField(name) else defaults, name)
        return value

    return types.SamplingParams(
        temperature=pick("temperature"),
        top_k=int(pick("top_k")),
        top_p=pick("top_p"),
        min_p=pick("min_p"),
        repetition_penalty=pick("repetition_penalty"),
        presence_penalty=pick("presence_penalty"),
        seed=wire.seed if wire.HasField("seed") else None,
    )


def score_request(work: worker_pb2.Submit) -> types.ScoreRequest:
    """Return the engine's request; raises InvalidRequest."""
    return types.ScoreRequest(
        id=work.id,
        tenant=work.tenant,
        texts=tuple(work.score.texts),
        deadline=deadline_of(work),
    )


def failure_message(failure: types.Failure) -> worker_pb2.FromWorker:
    """Return the message that ends a request without a result."""
    return worker_pb2.FromWorker(
        failed=worker_pb2.Failed(
            id=failure.id,
            reason=FAILURE_REASONS[failure.reason],
            field=failure.field,
            detail=failure.detail,
        )
    )


def generate_message(event: types.Delta | types.Done) -> worker_pb2.FromWorker:
    """Return the message for an event of a generation."""
    if isinstance(event, types.Delta):
        delta = text_pb2.Delta(text=event.text, logprobs=_logprobs(event.logprobs))
        return worker_pb2.FromWorker(delta=worker_pb2.GenerateDelta(id=event.id, delta=delta))
    reason = (
        FINISH_REASONS[event.finish_reason]
        if event.finish_reason is not None
        else text_pb2.FINISH_REASON_UNSPECIFIED
    )
    return worker_pb2.FromWorker(
        completed=worker_pb2.Completed(
            id=event.id,
            usage=_usage(event.usage),
            queue_ms=event.queue_ms,
            generate=worker_pb2.GenerateDone(finish_reason=reason),
        )
    )


def score_message(event: types.Done) -> worker_pb2.FromWorker:
    """Return the message that ends a score."""
    scores = (
        text_pb2.TextScore(tokens=_logprobs(score.tokens), logprob=score.logprob)
        for score in event.scores
    )
    return worker_pb2.FromWorker(
        completed=worker_pb2.Completed(
            id=event.id,
            usage=_usage(event.usage),
            queue_ms=event.queue_ms,
            score=text_pb2.ScoreResponse(scores=scores, usage=_usage(event.usage)),
        )
    )


def _usage(usage: types.Usage) -> text_pb2.Usage:
    return text_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def _logprobs(tokens: Sequence[types.TokenLogprob]) -> list[text_pb2.TokenLogprob]:
    return [
        text_pb2.TokenLogprob(
            token=token.token,
            logprob=token.logprob,
            alternatives=(
                text_pb2.Alternative(token=other.token, logprob=other.logprob)
                for other in token.alternatives
            ),
        )
        for token in tokens
    ]


def stats_message(nonce: int, stats: types.EngineStats) -> worker_pb2.FromWorker:
    """Return the heartbeat's answer."""
    return worker_pb2.FromWorker(
        pong=worker_pb2.Pong(
            nonce=nonce,
            running=stats.running,
            waiting=stats.waiting,
            kv_tokens_used=stats.kv_tokens_used,
            kv_tokens_total=stats.kv_tokens_total,
            prefix_queries=stats.prefix_queries,
            prefix_hits=stats.prefix_hits,
            prompt_tokens=stats.prompt_tokens,
            generation_tokens=stats.generation_tokens,
        )
    )
