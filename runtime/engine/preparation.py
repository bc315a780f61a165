"""A request's first steps, in its client's thread: render, tokenize, check its length.

What can never run is refused here, however long it would wait: a request that passes
fits the context and the KV cache when it has them to itself.
"""

from __future__ import annotations

import time

from runtime.engine.backend import TokenBackend
from runtime.engine.errors import FailureReason, InvalidRequest
from runtime.engine.prompt import PromptEncoder
from runtime.engine.sequence import Emit, Generation, Scoring, Sequence
from runtime.engine.template import ChatTemplate
from runtime.engine.types import GenerateRequest, ScoreRequest

DEADLINE_PASSED = "the deadline passed before the answer was complete"


class Preparer:
    """Makes sequences of requests for one backend; safe from any thread."""

    def __init__(self, backend: TokenBackend, template: ChatTemplate | None) -> None:
        self._backend = backend
        self._encoder = PromptEncoder(backend, template)

    def prepare(self, request: GenerateRequest | ScoreRequest, emit: Emit) -> Sequence:
        """A sequence that may run.

        Raises:
            InvalidRequest: a field is at fault, it can never fit, or it is late already.
        """
        now = time.monotonic()
        if request.deadline is not None and request.deadline <= now:
            raise InvalidRequest("", DEADLINE_PASSED, FailureReason.DEADLINE)
        try:
            if isinstance(request, ScoreRequest):
                return self._scoring(request, emit, now)
            return self._generation(request, emit, now)
        except UnicodeEncodeError:
            raise InvalidRequest("", "the text is not valid Unicode") from None

    def _scoring(self, request: ScoreRequest, emit: Emit, now: float) -> Scoring:
        texts = [self._encoder.encode_text(text) for text in request.texts]
        for index, tokens in enumerate(texts):
            self._check_length(f"texts[{index}]", len(tokens))
        return Scoring(request, emit, texts, vocabulary=self._backend, arrived=now)

    def _generation(self, request: GenerateRequest, emit: Emit, now: float) -> Generation:
        prompt, field = self._encoder.encode(request.prompt)
        self._check_length(field, len(prompt) + 1)
        room = min(self._backend.context_tokens, self._backend.kv_tokens) - len(prompt)
        max_tokens = request.max_tokens
        if request.fit_context:
            max_tokens = min(max_tokens, room)
        self._check_length("max_tokens", len(prompt) + max_tokens)
        return Generation(
            request,
            emit,
            prompt,
            max_tokens=max_tokens,
            vocabulary=self._backend,
            arrived=now,
        )

    def _check_length(self, field: str, tokens: int) -> None:
        """Refuse what could never run, however long it waited."""
        context, capacity = self._backend.context_tokens, self._backend.kv_tokens
        if tokens > context:
            raise InvalidRequest(field, f"{tokens} tokens are needed and the context has {context}")
        if tokens > capacity:
            raise InvalidRequest(
                field,
                f"{tokens} tokens are needed and the KV cache has {capacity}",
                FailureReason.CAPACITY,
            )
