"""What goes into the generation engine and what comes out of it.

Plain frozen values, with nothing of the wire and nothing of a backend. A request is
validated where it is made: a value that exists is within its bounds, and
`InvalidRequest` names the field that was not. Texts are held by these values and so by
no `repr`: every field that can hold text of a prompt or an answer is left out of it.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from runtime.engine.errors import FailureReason, InvalidRequest

MAX_STOP_STRINGS = 8
MAX_STOP_CHARS = 256
MAX_TOP_LOGPROBS = 5
MAX_SEED = 2**64 - 1
ROLES = ("system", "user", "assistant")


class FinishReason(enum.Enum):
    """Why a generation ended well; the names are the wire's."""

    END = "end"
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; `role` is one of `ROLES`."""

    role: str
    content: str = field(repr=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidRequest("chat.messages.role", f"role must be one of {', '.join(ROLES)}")


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text to continue as it is; control tokens spelled out in it stay plain text."""

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.text:
            raise InvalidRequest("prompt", "the prompt is empty")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation to answer; rendered with the bundle's chat template."""

    messages: tuple[ChatMessage, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidRequest("chat.messages", "the conversation is empty")


Prompt = TextPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy; otherwise in (0, 2].
        top_k: 0 means no limit; otherwise only the k most likely tokens are kept.
        top_p: in (0, 1]; keep the smallest set of tokens whose probability reaches it.
        min_p: in [0, 1); keep tokens at least this likely relative to the most likely.
        repetition_penalty: in (0, 2]; 1 is neutral. Applied to tokens of the prompt and
            of the answer: positive logits are divided by it, negative multiplied.
        presence_penalty: in [-2, 2]; 0 is neutral. Subtracted once from the logit of
            each token that the answer already holds.
        seed: 0 to 2**64 - 1; None draws one. The same seed, model and settings give the
            same choices from the same logits.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        bounds = (
            ("temperature", 0 <= self.temperature <= 2, "must be 0 (greedy) or in (0, 2]"),
            ("top_k", self.top_k >= 0, "must not be negative"),
            ("top_p", 0 < self.top_p <= 1, "must be in (0, 1]"),
            ("min_p", 0 <= self.min_p < 1, "must be in [0, 1)"),
            ("repetition_penalty", 0 < self.repetition_penalty <= 2, "must be in (0, 2]"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "must be in [-2, 2]"),
            ("seed", self.seed is None or 0 <= self.seed <= MAX_SEED, "must fit in 64 bits"),
        )
        for name, holds, message in bounds:
            if not holds:
                raise InvalidRequest(f"sampling.{name}", f"{name} {message}")


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One text to generate.

    Attributes:
        id: chosen by the caller, unique among the requests in flight.
        tenant: opaque; KV cache is reused only between requests with an equal tenant.
        max_tokens: at least 1. Prompt and max_tokens together must fit the context.
        stop: at most 8 strings; the answer ends before the first that appears.
        logprobs: report the log-probability of each generated token, as the model gave
            it, before temperature, penalties and cuts.
        top_logprobs: and of that many most likely tokens; at most 5; needs `logprobs`.
        deadline: `time.monotonic()` seconds after which the request is given up.
        fit_context: shorten max_tokens to what the context has left instead of refusing
            (for a default that the client did not ask for by name).
    """

    id: int
    tenant: bytes = field(repr=False)
    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = 256
    stop: tuple[str, ...] = field(default=(), repr=False)
    logprobs: bool = False
    top_logprobs: int = 0
    deadline: float | None = None
    fit_context: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InvalidRequest("max_tokens", "max_tokens must be at least 1")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequest("stop", f"at most {MAX_STOP_STRINGS} stop strings")
        for index, stop in enumerate(self.stop):
            if not 0 < len(stop) <= MAX_STOP_CHARS:
                raise InvalidRequest(
                    f"stop[{index}]", f"a stop string has 1 to {MAX_STOP_CHARS} characters"
                )
        if not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise InvalidRequest("top_logprobs", f"top_logprobs must be 0 to {MAX_TOP_LOGPROBS}")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs", "top_logprobs needs logprobs")
        _check_deadline(self.deadline)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Texts whose per-token log-probabilities are wanted; fields as in GenerateRequest."""

    id: int
    tenant: bytes = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)
    deadline: float | None = None

    def __post_init__(self) -> None:
        if not self.texts:
            raise InvalidRequest("texts", "there is no text to score")
        for index, text in enumerate(self.texts):
            if not text:
                raise InvalidRequest(f"texts[{index}]", "the text is empty")
        _check_deadline(self.deadline)


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and not math.isfinite(deadline):
        raise InvalidRequest("deadline", "the deadline is not a finite time")


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come instead; `token` is its bytes, `logprob` natural."""

    token: bytes = field(repr=False)
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's bytes (maybe a part of a UTF-8 character) and its natural log-probability."""

    token: bytes = field(repr=False)
    logprob: float
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class TextScore:
    """Log-probability of each token of a text given those before it, and their sum.

    A model without a BOS token has nothing before the first token: the list then starts
    at the second.
    """

    tokens: tuple[TokenLogprob, ...] = field(repr=False)
    logprob: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `cached_tokens` of the prompt came from this tenant's KV cache."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """More of an answer: whole UTF-8 characters, and the tokens they end."""

    id: int
    text: str = field(repr=False)
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """A request ended well. `finish_reason` is None for scores, `scores` empty for text."""

    id: int
    finish_reason: FinishReason | None
    usage: Usage
    queue_ms: int
    scores: tuple[TextScore, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """A request ended without a result; `field` names the request's field or is empty."""

    id: int
    reason: FailureReason
    field: str
    detail: str


Event = Delta | Done | Failure
"""Every request ends with exactly one Done or Failure; nothing follows it."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges and counters since the start.

    `kv_tokens_used` counts what running requests hold and what is kept for reuse;
    `prefix_queries` and `prefix_hits` count tokens, as vLLM's metrics do.
    """

    running: int = 0
    waiting: int = 0
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
