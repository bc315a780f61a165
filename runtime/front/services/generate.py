"""TextService/Generate: validation, the way to the worker and back, the stream's filter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

import grpc

from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.config import LimitsConfig
from runtime.filters.rules import RuleSet
from runtime.filters.stream import Released, StreamFilter
from runtime.front.call import Call
from runtime.front.errors import Refusal, invalid
from runtime.front.services.logprobs import LogprobGate
from runtime.front.services.work import estimated_tokens, messages, served_of, submit
from runtime.front.spec import Handler, OutFilter
from runtime.front.validate import require_count, require_range, require_text, wrong_task
from runtime.policy.model import RoleLimits
from security.bundle.manifest import BundleManifest

MAX_STOPS = 8
MAX_STOP_BYTES = 256
MAX_TOP_LOGPROBS = 5
MAX_TOP_K = 1_000_000
_ROLES = ("system", "user", "assistant")


def check_sampling(sampling: text_pb2.Sampling, prefix: str = "sampling.") -> None:
    """Refuse values outside the ranges that text.proto states."""
    if sampling.HasField("temperature"):
        require_range(prefix + "temperature", sampling.temperature, 0, 2)
    if sampling.HasField("top_k"):
        require_range(prefix + "top_k", sampling.top_k, 0, MAX_TOP_K)
    if sampling.HasField("top_p"):
        require_range(prefix + "top_p", sampling.top_p, 0, 1, low_open=True)
    if sampling.HasField("min_p"):
        require_range(prefix + "min_p", sampling.min_p, 0, 1, high_open=True)
    if sampling.HasField("repetition_penalty"):
        require_range(
            prefix + "repetition_penalty", sampling.repetition_penalty, 0, 2, low_open=True
        )
    if sampling.HasField("presence_penalty"):
        require_range(prefix + "presence_penalty", sampling.presence_penalty, -2, 2)


def default_max_tokens(manifest: BundleManifest, limits: RoleLimits) -> int:
    """Return the tokens to generate at most where the request does not say."""
    return min(
        manifest.serving_defaults.max_tokens,
        manifest.limits.max_output_tokens,
        limits.max_tokens,
    )


def check_max_tokens(requested: int, manifest: BundleManifest, limits: RoleLimits) -> int:
    """Return what to ask the worker for; refuse more than model and role allow.

    0 stays 0, so that a long prompt may shorten the default, unless the role's limit
    is below the default.
    """
    if requested == 0:
        default = manifest.serving_defaults.max_tokens
        return limits.max_tokens if limits.max_tokens < default else 0
    if requested >= manifest.limits.context_tokens:
        raise invalid(
            "max_tokens",
            f"leaves no room in the context of {manifest.limits.context_tokens} tokens",
            "BEYOND_CONTEXT",
        )
    if requested > manifest.limits.max_output_tokens:
        raise invalid(
            "max_tokens", f"is over the model's {manifest.limits.max_output_tokens}", "OUT_OF_RANGE"
        )
    if requested > limits.max_tokens:
        raise invalid("max_tokens", f"is over the role's {limits.max_tokens}", "OUT_OF_RANGE")
    return requested


def check_stops(stops: Sequence[str], field: str = "stop") -> None:
    """Refuse too many stop strings, and any that could not appear."""
    if len(stops) > MAX_STOPS:
        raise invalid(field, f"has more than {MAX_STOPS} items", "TOO_MANY_ITEMS")
    for index, stop in enumerate(stops):
        require_text(f"{field}[{index}]", stop, MAX_STOP_BYTES)


class Generate(Handler):
    """Continues a prompt or a conversation."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits

    def model(self, request: text_pb2.GenerateRequest) -> tuple[str, str]:
        """Return the model that is named."""
        return request.model, request.version

    def validate(self, call: Call) -> None:
        """Check every field, and settle max_tokens."""
        request: text_pb2.GenerateRequest = call.request
        manifest = served_of(call).manifest
        limits = call.role.limits if call.role else RoleLimits()
        if manifest.task != "generate":
            raise wrong_task(manifest.task, "generate")
        kind = request.WhichOneof("input")
        if kind == "chat":
            self._check_chat(request.chat, manifest)
        elif kind == "prompt":
            require_text("prompt", request.prompt, self._limits.max_prompt_bytes)
        else:
            raise invalid("prompt", "a prompt or a chat is required", "EMPTY_TEXT")
        check_sampling(request.sampling)
        check_stops(request.stop)
        request.max_tokens = check_max_tokens(request.max_tokens, manifest, limits)
        require_range("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if request.top_logprobs and not request.logprobs:
            raise invalid("top_logprobs", "needs logprobs")
        if request.logprobs and not limits.logprobs:
            raise Refusal(
                grpc.StatusCode.PERMISSION_DENIED,
                "LOGPROBS_NOT_ALLOWED",
                "the policy does not allow this role log-probabilities",
                field="logprobs",
            )

    def _check_chat(self, chat: text_pb2.Chat, manifest: BundleManifest) -> None:
        if manifest.chat_template is None:
            raise invalid("chat", "the model has no chat template; use prompt", "NO_CHAT_TEMPLATE")
        require_count("chat.messages", len(chat.messages), self._limits.max_inputs)
        total = 0
        for index, message in enumerate(chat.messages):
            field = f"chat.messages[{index}]"
            if message.role not in _ROLES:
                raise invalid(f"{field}.role", f"must be one of {', '.join(_ROLES)}")
            require_text(f"{field}.content", message.content, self._limits.max_prompt_bytes)
            total += len(message.content.encode())
        if total > self._limits.max_prompt_bytes:
            limit = self._limits.max_prompt_bytes
            raise invalid("chat.messages", f"together over {limit} bytes", "TEXT_TOO_LONG")

    def estimate_tokens(self, call: Call) -> int:
        """Return the prompt's estimate and the most that may be generated."""
        call.estimated_prompt_tokens = estimated_tokens(list(self.texts(call.request)))
        limits = call.role.limits if call.role else RoleLimits()
        most = call.request.max_tokens or default_max_tokens(served_of(call).manifest, limits)
        return call.estimated_prompt_tokens + int(most)

    def texts(self, request: text_pb2.GenerateRequest) -> Sequence[str]:
        """Return the prompt or the messages' contents, and the stop strings.

        A stop string is scanned too: it reaches the model's process.
        """
        if request.WhichOneof("input") == "prompt":
            return [request.prompt, *request.stop]
        return [*(message.content for message in request.chat.messages), *request.stop]

    def replace_texts(self, request: text_pb2.GenerateRequest, texts: Sequence[str]) -> None:
        """Put the redacted texts in place."""
        queue = iter(texts)
        if request.WhichOneof("input") == "prompt":
            request.prompt = next(queue)
        else:
            for message in request.chat.messages:
                message.content = next(queue)
        request.stop[:] = list(queue)

    def request_parts(self, request: text_pb2.GenerateRequest) -> Iterator[bytes]:
        """Yield the prompt; or role and content of each message."""
        if request.WhichOneof("input") == "prompt":
            yield request.prompt.encode()
            return
        for message in request.chat.messages:
            yield message.role.encode()
            yield message.content.encode()

    async def answer(self, call: Call) -> AsyncIterator[text_pb2.GenerateResponse]:
        """Yield deltas and, last, the completion."""
        stream = submit(call, worker_pb2.Submit(generate=call.request))
        async for message in messages(call, stream):
            if message.HasField("delta"):
                yield text_pb2.GenerateResponse(delta=message.delta.delta)
            else:
                reason = message.completed.generate.finish_reason
                yield text_pb2.GenerateResponse(completion=completion(call, reason))

    def out_filter(self, call: Call) -> OutFilter:
        """Return the hold-back filter, where rules apply."""
        return GenerateFilter(call, call.rules_out) if call.rules_out else OutFilter()

    def answer_parts(
        self, call: Call, message: text_pb2.GenerateResponse | None
    ) -> Iterable[bytes]:
        """Return the whole delivered text, as one part, at the end."""
        if message is None:
            return ("".join(call.delivered).encode(),)
        if message.HasField("delta"):
            call.delivered.append(message.delta.text)
        return ()


def completion(call: Call, reason: text_pb2.FinishReason) -> text_pb2.Completion:
    """Return the last message of a stream."""
    served = served_of(call)
    return text_pb2.Completion(
        finish_reason=reason,
        usage=call.usage,
        model=served.name,
        version=served.version,
        bundle_digest=served.digest,
        request_id=call.request_id,
    )


class GenerateFilter(OutFilter):
    """Applies the rules to the deltas of one answer."""

    def __init__(self, call: Call, rules: RuleSet) -> None:
        self._call = call
        self._filter = StreamFilter(rules)
        self._gate = LogprobGate(rules)

    def feed(self, message: text_pb2.GenerateResponse) -> Iterator[text_pb2.GenerateResponse]:
        """Yield what may leave; after a block, the completion that says so."""
        if self.done:
            return
        if message.HasField("delta"):
            delta = message.delta
            self._gate.add(delta.text, delta.logprobs)
            yield from self._release(self._filter.feed(delta.text))
        else:
            yield from self._release(self._filter.finish())
            if not self.done:
                yield message

    def _release(self, released: Released) -> Iterator[text_pb2.GenerateResponse]:
        call = self._call
        call.verdicts.extend(v for v in self._filter.verdicts if v not in call.verdicts)
        tokens = self._gate.release(released)
        if released.text or tokens:
            delta = text_pb2.Delta(text=released.text, logprobs=tokens)
            yield text_pb2.GenerateResponse(delta=delta)
        if self._filter.blocked:
            self.done = True
            call.cancel_work()
            if not call.usage.prompt_tokens:
                call.usage.completion_tokens = call.deltas
            reason = text_pb2.FINISH_REASON_FILTERED
            yield text_pb2.GenerateResponse(completion=completion(call, reason))
