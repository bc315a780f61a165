"""How probable a language model finds a text, token by token, and what it expects next.

A decoder or recurrent model gives log p(token | tokens before it). The first token is
scored only where the vocabulary has a token that begins a text. A text longer than the
context is gone over in windows that overlap by half, so that each token has at least
half a context before it.

A masked language model has no such chain; its score is the pseudo-log-likelihood of
Salazar et al. 2020, the sum of log p(token | all others), one masked at a time. The
likeliest next tokens are then those for a mask at the end of the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.tokenization import Tokenizer
from trainer.errors import DataError, RecipeError
from trainer.evaluation import metrics
from trainer.evaluation.opening import OpenCheckpoint, kind_of, open_checkpoint

# Masked copies of a text that go through the network together.
_MASKED_ROWS = 16


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of the text; its log-probability in nats is None where it has no context."""

    token: str
    token_id: int
    logprob: float | None


@dataclass(frozen=True, slots=True)
class NextToken:
    """A token that may follow, and how probable it is."""

    token: str
    token_id: int
    probability: float


@dataclass(frozen=True)
class TextScore:
    """The score of a text.

    Attributes:
        measure: "log-likelihood", or "pseudo-log-likelihood" of a masked model; figures
            of the two cannot be compared.
        total: sum over the scored tokens, nats.
        scored: how many tokens that is.
        perplexity: exp(-total / scored); None if no token could be scored.
        bits_per_byte: -total / ln 2 over the UTF-8 bytes of the scored tokens' text; None
            if no token could be scored.
        tokens: each token of the text.
        next_tokens: the likeliest continuations, most probable first.
    """

    measure: str
    total: float
    scored: int
    perplexity: float | None
    bits_per_byte: float | None
    tokens: tuple[TokenScore, ...]
    next_tokens: tuple[NextToken, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; an infinite perplexity is "inf"."""
        finite = self.perplexity is None or math.isfinite(self.perplexity)
        return {
            "measure": self.measure,
            "total_logprob": self.total,
            "scored_tokens": self.scored,
            "perplexity": self.perplexity if finite else str(self.perplexity),
            "bits_per_byte": self.bits_per_byte,
            "tokens": [
                {"token": one.token, "id": one.token_id, "logprob": one.logprob}
                for one in self.tokens
            ],
            "next": [
                {"token": one.token, "id": one.token_id, "probability": one.probability}
                for one in self.next_tokens
            ],
        }


def score_text(folder: Path, text: str, *, top_k: int = 10, device: str = "auto") -> TextScore:
    """Score a text with a checkpoint.

    Args:
        folder: the checkpoint's directory.
        text: what to score.
        top_k: continuations to give.
        device: "auto", "cpu" or "cuda".

    Raises:
        RecipeError: the checkpoint is no decoder, recurrent or masked language model.
        DataError: the text is empty, or too long for a masked model.
        CheckpointError: the checkpoint cannot be read.
    """
    return score_with(open_checkpoint(folder, device), text, top_k=top_k)


@torch.no_grad()
def score_with(checkpoint: OpenCheckpoint, text: str, *, top_k: int = 10) -> TextScore:
    """Score a text with a checkpoint that is open; as `score_text`."""
    kind = kind_of(checkpoint.network)
    if kind not in ("next-token", "masked"):
        raise RecipeError(
            f"{checkpoint.folder} was made for {kind!r}; the probability of a text comes from "
            "a decoder, a recurrent or a masked language model"
        )
    encoding = checkpoint.tokenizer.raw.encode(text, add_special_tokens=False)
    if not encoding.ids:
        raise DataError("there is no text to score: give at least one token")
    score = _chain if kind == "next-token" else _masked
    logprobs, following = score(checkpoint, encoding.ids)
    pieces = [text[start:end] for start, end in encoding.offsets]
    scored = [one for one in logprobs if one is not None]
    total = math.fsum(scored)
    # Where the first token has no score, its bytes do not count either.
    first = next((at for at, one in enumerate(logprobs) if one is not None), None)
    rest = "" if first is None else text[encoding.offsets[first][0] :]
    size = len(rest.encode("utf-8", errors="replace"))
    return TextScore(
        measure="log-likelihood" if kind == "next-token" else "pseudo-log-likelihood",
        total=total,
        scored=len(scored),
        perplexity=metrics.perplexity(-total / len(scored)) if scored else None,
        bits_per_byte=-total / math.log(2) / size if size else None,
        tokens=tuple(
            TokenScore(piece, token_id, logprob)
            for piece, token_id, logprob in zip(pieces, encoding.ids, logprobs, strict=True)
        ),
        next_tokens=_likeliest(following, checkpoint.tokenizer, top_k),
    )


def _chain(checkpoint: OpenCheckpoint, ids: Sequence[int]) -> tuple[list[float | None], Tensor]:
    """Return log p of each token given those before it, and of what may follow, f64[V]."""
    begin = checkpoint.tokenizer.special.begin
    row = torch.tensor([*([] if begin is None else [begin]), *ids], device=checkpoint.device)
    found: list[float | None] = [] if begin is not None else [None]
    last = torch.empty(0)
    for start, end, fresh in windows(len(row), checkpoint.network.context):
        logits = checkpoint.network({"input_ids": row[None, start:end]})[0]
        chances = torch.log_softmax(logits.double(), dim=-1)
        # Position t predicts token t + 1; `fresh` is the first one not scored yet.
        targets = row[fresh:end]
        rows = chances[fresh - 1 - start : end - 1 - start]
        found += rows.gather(-1, targets[:, None])[:, 0].tolist()
        last = chances[-1]
    return found, last


def windows(length: int, context: int) -> list[tuple[int, int, int]]:
    """Cut tokens into windows that overlap by half a context.

    Returns:
        (start, end, first token to score) of each; token 0 is never scored, and every
        other one once.
    """
    found = [(0, min(length, context), 1)]
    step = max(1, context // 2)
    while found[-1][1] < length:
        done = found[-1][1]
        end = min(length, done + step)
        found.append((max(0, end - context), end, done))
    return found


def _masked(checkpoint: OpenCheckpoint, ids: Sequence[int]) -> tuple[list[float | None], Tensor]:
    """Return log p of each token given all others, and of a mask at the end, f64[V]."""
    mask = checkpoint.tokenizer.special.mask
    if mask is None:
        raise RecipeError(f"the vocabulary in {checkpoint.folder} has no mask token")
    before, after = _frame(checkpoint.tokenizer)
    row = torch.tensor([*before, *ids, *after])
    if len(row) + 1 > checkpoint.network.context:
        room = checkpoint.network.context - len(before) - len(after) - 1
        raise DataError(f"the text has {len(ids)} tokens; this model takes {room} at most")
    found: list[float | None] = []
    for first in range(0, len(ids), _MASKED_ROWS):
        places = torch.arange(first, min(first + _MASKED_ROWS, len(ids))) + len(before)
        rows = row.repeat(len(places), 1)
        rows[torch.arange(len(places)), places] = mask
        chances = _chances(checkpoint, rows, places)
        found += chances.gather(-1, row[places][:, None])[:, 0].tolist()
    longer = torch.tensor([[*before, *ids, mask, *after]])
    following = _chances(checkpoint, longer, torch.tensor([len(before) + len(ids)]))
    return found, following[0]


def _chances(checkpoint: OpenCheckpoint, rows: Tensor, places: Tensor) -> Tensor:
    """Return log-probabilities at one place of each row: f64[B, V] on the CPU."""
    batch = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
    on_device = {name: one.to(checkpoint.device) for name, one in batch.items()}
    logits = checkpoint.network(on_device).cpu()
    return torch.log_softmax(logits[torch.arange(len(rows)), places].double(), dim=-1)


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    text = tokenizer.raw.encode("a", add_special_tokens=False).ids
    whole = tokenizer.raw.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(text) + 1):
        if whole[start : start + len(text)] == text:
            return whole[:start], whole[start + len(text) :]
    return [], []


def _likeliest(following: Tensor, tokenizer: Tokenizer, top_k: int) -> tuple[NextToken, ...]:
    # A table may have more rows than the vocabulary has entries (padding for speed).
    known = following.cpu()[: tokenizer.vocabulary_size]
    values, ids = known.topk(min(top_k, len(known)))
    return tuple(
        NextToken(tokenizer.decode(np.array([token_id])), token_id, math.exp(value))
        for value, token_id in zip(values.tolist(), ids.tolist(), strict=True)
    )
