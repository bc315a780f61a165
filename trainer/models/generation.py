"""Sampling: what the language models share.

Invariant: after `generating` a network is in the mode it was in before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.errors import RecipeError


@contextmanager
def generating(network: nn.Module) -> Iterator[None]:
    """Turn dropout and gradients off for a while."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def next_token(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Sample one token of each row: float [B, V] -> i64 [B, 1].

    Raises:
        RecipeError: a temperature below 0.
    """
    if temperature < 0:
        raise RecipeError(f"the temperature is {temperature:g}; it cannot be below 0")
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    chances = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(chances, 1, generator=generator)
