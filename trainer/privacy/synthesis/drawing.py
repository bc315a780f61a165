"""One token of each text, drawn from logits: temperature, then top-k, then top-p.

Pure but for the generator: the same logits, settings and generator state give the same
tokens on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.privacy.synthesis.errors import SynthesisError
from trainer.privacy.synthesis.settings import Sampling


def draw_tokens(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Draw a token for each row.

    Args:
        logits: float[B, V]; minus infinity for tokens that may not be drawn.
        sampling: the settings.
        generator: on the logits' device.

    Returns:
        i64[B].

    Raises:
        SynthesisError: a row has no number, or no token that may be drawn.
    """
    scores = logits.float()
    best = scores.max(dim=-1)
    if not bool(torch.isfinite(best.values).all()):
        raise SynthesisError("the model gives no probabilities: its weights are damaged")
    if sampling.temperature == 0:
        return best.indices
    # Taking the largest off first changes nothing, and keeps tiny temperatures finite.
    scores = (scores - best.values[:, None]) / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        scores = _only_best(scores, sampling.top_k)
    if sampling.top_p < 1:
        scores = _only_nucleus(scores, sampling.top_p)
    return torch.multinomial(scores.softmax(dim=-1), 1, generator=generator).squeeze(1)


def _only_best(scores: Tensor, count: int) -> Tensor:
    kept = scores.topk(count, dim=-1)
    return torch.full_like(scores, -torch.inf).scatter(1, kept.indices, kept.values)


def _only_nucleus(scores: Tensor, share: float) -> Tensor:
    """Keep the likeliest tokens that together reach the share, the one that does included."""
    ordered, places = scores.sort(dim=-1, descending=True, stable=True)
    chances = ordered.softmax(dim=-1)
    before = chances.cumsum(dim=-1) - chances
    kept = ordered.masked_fill(before >= share, -torch.inf)
    # The first one stays, whatever rounding says.
    kept[:, 0] = ordered[:, 0]
    return torch.full_like(scores, -torch.inf).scatter(1, places, kept)
