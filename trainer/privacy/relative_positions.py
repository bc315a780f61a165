"""The tables of relative positions of T5's attention, with a row of examples.

They are looked up once for all examples, and what comes out, [1, H, T, S], is added to the
scores [B, H, T, S]. Repeated along the examples, the same scores get the same values, and
each example's gradient stands apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from trainer.privacy.hooks import on_gradient


def tables_in(network: nn.Module) -> dict[int, T5Attention]:
    """Return the attention that owns each table of relative positions, by the table's id."""
    return {
        id(layer.relative_attention_bias): layer
        for layer in network.modules()
        if isinstance(layer, T5Attention) and layer.has_relative_attention_bias
    }


@contextmanager
def by_example(
    attention: T5Attention,
    table: nn.Embedding,
    examples: int,
    arrived: Callable[[Tensor, Tensor], None],
) -> Iterator[None]:
    """Let an attention make a bias for each example.

    Args:
        attention: owns `table`.
        table: [buckets, H].
        examples: B.
        arrived: gets ids int64 [B, T * S] and the gradient [B, T * S, H] of their rows.
    """
    shared = attention.compute_bias
    buckets: list[Tensor] = []

    def remember(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        buckets.append(given[0])

    def compute_bias(*args: Any, **options: Any) -> Tensor:
        values: Tensor = shared(*args, **options)
        ids = buckets.pop().flatten().expand(examples, -1)
        apart: Tensor = values.detach().expand(examples, -1, -1, -1)
        if torch.is_grad_enabled():
            on_gradient(apart.requires_grad_(), lambda grad: arrived(ids, grad.flatten(2).mT))
        return apart

    handle = table.register_forward_pre_hook(remember)
    attention.compute_bias = compute_bias
    try:
        yield
    finally:
        handle.remove()
        del attention.compute_bias
