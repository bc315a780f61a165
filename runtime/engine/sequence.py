"""A request inside the engine: its tokens, how many the KV cache holds, its progress.

A `Generation` extends itself by the token it chooses; a `Scoring` walks through given
texts one after the other. The scheduler sees only what they share: tokens that are not
computed yet, and how much cache they may come to need.

Invariant: the KV cache holds, in `slot`, exactly `tokens[:computed]`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime.engine.answer import Answer
from runtime.engine.backend import Logits, Vocabulary
from runtime.engine.prefix import TokenArray
from runtime.engine.sampling import Sampler, log_normalizer, most_likely
from runtime.engine.types import (
    Alternative,
    Delta,
    Done,
    Event,
    FinishReason,
    GenerateRequest,
    ScoreRequest,
    TextScore,
    TokenLogprob,
    Usage,
)

Emit = Callable[[Event], None]
NO_SLOT = -1


class Sequence:
    """What the scheduler knows of a request.

    Attributes:
        reserve_tokens: positions it may come to hold; room for them is set aside when it
            is admitted, so that a running request never runs out of cache.
        every_row: whether logits are wanted after each token, not the last alone.
    """

    every_row = False

    def __init__(
        self,
        request: GenerateRequest | ScoreRequest,
        emit: Emit,
        tokens: list[int],
        *,
        reserve_tokens: int,
        arrived: float,
    ) -> None:
        self.id = request.id
        self.tenant = request.tenant
        self.deadline = request.deadline
        self.emit = emit
        self.tokens = tokens
        self.reserve_tokens = reserve_tokens
        self.arrived = arrived
        self.computed = 0
        self.cached = 0
        self.slot = NO_SLOT
        self.queue_ms = 0

    @property
    def pending(self) -> int:
        """Tokens that the cache does not hold yet."""
        return len(self.tokens) - self.computed

    def reusable_prompt(self) -> TokenArray | None:
        """Tokens whose cache may come from an earlier request; None when none may."""
        return None


class Generation(Sequence):
    """One answer being written."""

    def __init__(
        self,
        request: GenerateRequest,
        emit: Emit,
        prompt: list[int],
        *,
        max_tokens: int,
        vocabulary: Vocabulary,
        arrived: float,
    ) -> None:
        super().__init__(
            request,
            emit,
            prompt,
            reserve_tokens=len(prompt) + max_tokens,
            arrived=arrived,
        )
        self._prompt_tokens = len(prompt)
        self._max_tokens = max_tokens
        self._vocabulary = vocabulary
        self._logprobs = request.logprobs
        self._top_logprobs = request.top_logprobs
        self._sampler = Sampler(request.sampling, prompt)
        self._answer = Answer(request.stop)

    def reusable_prompt(self) -> TokenArray | None:
        """All but the prompt's last token, which must be computed to get its logits."""
        return np.array(self.tokens[:-1], dtype=np.int32)

    def advance(self, logits: Logits) -> Done | None:
        """Choose the next token and tell the client; Done when it was the last one."""
        token = self._sampler.choose(logits)
        self.tokens.append(token)
        vocabulary = self._vocabulary
        if vocabulary.is_end(token):
            return self._finish(FinishReason.END)
        piece = vocabulary.piece(token)
        logprob = self._logprob(logits, token, piece) if self._logprobs else None
        text, logprobs = self._answer.push(piece, logprob)
        if self._answer.stopped:
            return self._finish(FinishReason.STOP, text, logprobs)
        if len(self.tokens) - self._prompt_tokens >= self._max_tokens:
            return self._finish(FinishReason.LENGTH, text, logprobs)
        if text or logprobs:
            self.emit(Delta(self.id, text, logprobs))
        return None

    def _logprob(self, logits: Logits, token: int, piece: bytes) -> TokenLogprob:
        normalizer = log_normalizer(logits)
        alternatives = tuple(
            Alternative(self._vocabulary.piece(other), float(logits[other]) - normalizer)
            for other in most_likely(logits, self._top_logprobs)
        )
        return TokenLogprob(piece, float(logits[token]) - normalizer, alternatives)

    def _finish(
        self, reason: FinishReason, text: str = "", logprobs: tuple[TokenLogprob, ...] = ()
    ) -> Done:
        rest, rest_logprobs = self._answer.finish()
        if self._answer.stopped:
            reason = FinishReason.STOP
        if text or rest or logprobs or rest_logprobs:
            self.emit(Delta(self.id, text + rest, logprobs + rest_logprobs))
        completion = len(self.tokens) - self._prompt_tokens
        usage = Usage(self._prompt_tokens, completion, self.cached)
        return Done(self.id, reason, usage, self.queue_ms)


class Scoring(Sequence):
    """Texts being scored, one after the other, in one slot."""

    every_row = True

    def __init__(
        self,
        request: ScoreRequest,
        emit: Emit,
        texts: list[list[int]],
        *,
        vocabulary: Vocabulary,
        arrived: float,
    ) -> None:
        super().__init__(
            request,
            emit,
            texts[0],
            reserve_tokens=max(map(len, texts)),
            arrived=arrived,
        )
        self._texts = texts
        self._index = 0
        self._vocabulary = vocabulary
        self._scores: list[TextScore] = []
        self._current: list[TokenLogprob] = []

    def score(self, logits: Logits, position: int) -> None:
        """Take the logits after `position`, which tell of the token after it."""
        if position + 1 >= len(self.tokens):
            return
        token = self.tokens[position + 1]
        logprob = float(logits[token]) - log_normalizer(logits)
        self._current.append(TokenLogprob(self._vocabulary.piece(token), logprob))

    def next_text(self) -> Done | None:
        """End the current text; Done when it was the last, otherwise the next begins."""
        tokens = tuple(self._current)
        self._scores.append(TextScore(tokens, sum(token.logprob for token in tokens)))
        self._current = []
        self._index += 1
        if self._index == len(self._texts):
            usage = Usage(sum(map(len, self._texts)))
            return Done(self.id, None, usage, self.queue_ms, tuple(self._scores))
        self.tokens = self._texts[self._index]
        self.computed = 0
        return None
