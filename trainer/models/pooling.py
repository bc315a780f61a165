"""One vector of a text from the states of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_of_tokens(states: Tensor, mask: Tensor | None) -> Tensor:
    """Average the states of real tokens: [B, T, D] and [B, T] -> [B, D]."""
    if mask is None:
        return states.mean(1)
    weights = mask.to(states.dtype)[:, :, None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def last_token(states: Tensor, mask: Tensor | None) -> Tensor:
    """Pick the state of the last real token: [B, T, D] and [B, T] -> [B, D]."""
    if mask is None:
        return states[:, -1]
    positions = torch.arange(states.shape[1], device=states.device)
    last = (positions * mask.to(positions.dtype)).argmax(-1)
    return states[torch.arange(len(states), device=states.device), last]
