"""Choosing the next token from a row of logits.

The order is that of vLLM: penalties, temperature, min-p, top-k, top-p, draw.

A vocabulary has a quarter of a million tokens, so nothing sorts all of them. Greedy
choice is one pass. For a draw, tokens more than `NEGLIGIBLE_NATS` below the best (after
temperature) are dropped in one pass first: together they hold less than 3e-8 of the
probability even if the vocabulary is 262,144 equals. min-p is a threshold of the same
kind and is folded into that pass. Top-p sorts only as many as it turns out to need.

Refuses logits that are not numbers: a broken model must not look like an answer.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.engine.backend import Logits
from runtime.engine.errors import DecodeError
from runtime.engine.types import SamplingParams

NEGLIGIBLE_NATS = 30.0
_FIRST_TOP_P_SORT = 64

Tokens = npt.NDArray[np.intp]


class Sampler:
    """Chooses the tokens of one answer; the same seed makes the same draws (PCG64)."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._params = params
        self._penalties = params.repetition_penalty != 1 or params.presence_penalty != 0
        self._repeated = set(prompt) if params.repetition_penalty != 1 else set()
        self._present: set[int] = set()
        seed = params.seed if params.seed is not None else secrets.randbits(64)
        self._random = np.random.Generator(np.random.PCG64(seed))

    def choose(self, logits: Logits) -> int:
        """The next token, from float32[vocabulary] that is left unchanged.

        Raises:
            DecodeError: the best logit is not a finite number.
        """
        if self._penalties:
            logits = self._penalized(logits)
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            raise DecodeError("the model's logits are not finite")
        token = best if self._params.temperature == 0 else self._draw(logits, float(logits[best]))
        if self._penalties:
            self._present.add(token)
            if self._params.repetition_penalty != 1:
                self._repeated.add(token)
        return token

    def _penalized(self, logits: Logits) -> Logits:
        """Repetition penalty as in CTRL (Keskar et al. 2019), presence as in OpenAI's API."""
        logits = logits.copy()
        penalty = self._params.repetition_penalty
        if penalty != 1 and self._repeated:
            seen = np.fromiter(self._repeated, dtype=np.intp, count=len(self._repeated))
            values = logits[seen]
            logits[seen] = np.where(values > 0, values / penalty, values * penalty)
        if self._params.presence_penalty != 0 and self._present:
            seen = np.fromiter(self._present, dtype=np.intp, count=len(self._present))
            logits[seen] -= self._params.presence_penalty
        return logits

    def _draw(self, logits: Logits, best: float) -> int:
        params = self._params
        nats = NEGLIGIBLE_NATS
        if params.min_p > 0:
            nats = min(nats, -math.log(params.min_p))
        # In float64: a tiny temperature must not overflow the threshold.
        tokens = np.flatnonzero(logits >= best - nats * params.temperature)
        values = logits[tokens].astype(np.float64)
        if 0 < params.top_k < len(tokens):
            kept = np.argpartition(values, -params.top_k)[-params.top_k :]
            kept.sort()
            tokens, values = tokens[kept], values[kept]
        weights = np.exp((values - best) / params.temperature)
        if params.top_p < 1:
            tokens, weights = _cut_top_p(tokens, weights, params.top_p)
        cumulative = np.cumsum(weights)
        point = self._random.random() * cumulative[-1]
        index = int(np.searchsorted(cumulative, point, side="right"))
        return int(tokens[min(index, len(tokens) - 1)])


def _cut_top_p(
    tokens: Tokens, weights: npt.NDArray[np.float64], top_p: float
) -> tuple[Tokens, npt.NDArray[np.float64]]:
    """The smallest set of most likely tokens whose share of the weight reaches top_p."""
    wanted = top_p * float(weights.sum())
    size = _FIRST_TOP_P_SORT
    while True:
        size = min(size, len(weights))
        head = (
            np.argpartition(weights, -size)[-size:]
            if size < len(weights)
            else np.arange(len(weights))
        )
        head = head[np.argsort(-weights[head], kind="stable")]
        cumulative = np.cumsum(weights[head])
        if cumulative[-1] >= wanted or size == len(weights):
            count = min(int(np.searchsorted(cumulative, wanted)) + 1, size)
            kept = head[:count]
            return tokens[kept], weights[kept]
        size *= 8


def log_normalizer(logits: Logits) -> float:
    """Natural log of the sum of exponentials of a row: logit - this = log-probability."""
    best = float(logits.max())
    return best + math.log(float(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))


def most_likely(logits: Logits, count: int) -> list[int]:
    """The `count` most likely tokens, best first; a few passes beat a partition."""
    rest = logits.copy()
    found = []
    for _ in range(min(count, len(rest))):
        token = int(rest.argmax())
        found.append(token)
        rest[token] = -np.inf
    return found
