"""A generation as a value: building its request, and gathering its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from casemate.client import calls, types
from casemate.client.errors import ServerFault
from casemate.client.exchange import Exchange, Parts, Trailer, answered
from casemate.pb.casemate.v1 import text_pb2
from security.errors import UsageError

METHOD = calls.TEXT + "Generate"
SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "seed",
)


@dataclass(frozen=True, slots=True)
class Options:
    """How to generate; what is None or 0 takes the bundle's signed default.

    Attributes:
        max_tokens: most tokens to generate.
        temperature: 0 is greedy; otherwise in (0, 2].
        top_k, top_p, min_p: which tokens may be drawn.
        repetition_penalty: in (0, 2]; 1 is neutral.
        presence_penalty: in [-2, 2]; 0 is neutral.
        seed: makes drawing repeatable.
        stop: generation ends before the first of these, at most 8.
        logprobs: report each token's log-probability.
        top_logprobs: and of so many alternatives, at most 5.
    """

    max_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    logprobs: bool = False
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """A request to generate, and what its receipt commits to."""

    request: text_pb2.GenerateRequest
    request_parts: Parts = field(repr=False)

    def exchange(self, answered: types.Answered, trailer: Trailer, answer: Parts) -> Exchange:
        """Return what the receipt must agree with."""
        asked = self.request
        return Exchange(
            METHOD, asked.model, asked.version, answered, trailer, self.request_parts, answer
        )


def of_prompt(model: str, version: str, prompt: str, options: Options) -> Generation:
    """Continue a text."""
    request = _request(model, version, options)
    request.prompt = prompt
    return Generation(request, (prompt.encode(),))


def of_chat(model: str, version: str, messages: types.Conversation, options: Options) -> Generation:
    """Answer a conversation.

    Raises:
        UsageError: a message has no role and content, or there is none.
    """
    request = _request(model, version, options)
    parts: list[bytes] = []
    for number, message in enumerate(messages):
        role, content = _turn(number, message)
        request.chat.messages.add(role=role, content=content)
        parts += [role.encode(), content.encode()]
    if not parts:
        raise UsageError("messages: a conversation needs at least one message")
    return Generation(request, tuple(parts))


class Gathered:
    """Gathers the stream's messages into pieces and, at its end, the completion."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens: list[types.Token] = []
        self._ended: text_pb2.Completion | None = None

    @property
    def text(self) -> str:
        """What has arrived so far."""
        return "".join(self._texts)

    def feed(self, message: text_pb2.GenerateResponse) -> types.Piece | None:
        """Take a message; return a piece, or None for the completion."""
        if message.HasField("completion"):
            self._ended = message.completion
            return None
        tokens = calls.tokens(message.delta.logprobs)
        self._texts.append(message.delta.text)
        self._tokens += tokens
        return types.Piece(message.delta.text, tokens)

    def completion(self, trailer: Trailer) -> types.Completion:
        """Return the whole.

        Raises:
            ServerFault: the stream ended well but without its completion.
        """
        if self._ended is None:
            raise ServerFault("the appliance ended the answer without saying how", code="INTERNAL")
        reason = text_pb2.FinishReason.Name(self._ended.finish_reason)
        return types.Completion(
            answered(self._ended, trailer),
            self.text,
            reason.removeprefix("FINISH_REASON_").lower(),
            calls.usage(self._ended.usage),
            tuple(self._tokens),
        )

    def answer_parts(self) -> Parts:
        """Return what the receipt commits to: the whole text as one part."""
        return (self.text.encode(),)


def _request(model: str, version: str, options: Options) -> text_pb2.GenerateRequest:
    chosen: dict[str, Any] = {
        name: getattr(options, name)
        for name in SAMPLING_FIELDS
        if getattr(options, name) is not None
    }
    if isinstance(options.stop, str):
        raise UsageError("stop: give a list of texts")
    return text_pb2.GenerateRequest(
        model=model,
        version=version,
        sampling=text_pb2.Sampling(**chosen) if chosen else None,
        max_tokens=options.max_tokens,
        stop=options.stop,
        logprobs=options.logprobs,
        top_logprobs=options.top_logprobs,
    )


def _turn(
    number: int, message: types.Message | Mapping[str, str] | tuple[str, str]
) -> tuple[str, str]:
    if isinstance(message, types.Message):
        return message.role, message.content
    if isinstance(message, Mapping):
        if set(message) != {"role", "content"}:
            raise UsageError(f"messages[{number}]: give role and content")
        return message["role"], message["content"]
    role, content = message
    return role, content
