"""Gradients of a step: added up over micro-batches and ranks, scaled, clipped.

Gradients are sums over everything that was seen, never means over ranks: losses are sums
over targets, and one division by the number of targets of the global batch (`scale_gradients`)
makes the mean. So one rank, several, and any cut into micro-batches give the same update.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


def accumulate(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Return the context for forward and backward of one micro-batch.

    DDP sums over ranks once, in the `last` micro-batch of a step. FSDP sums in each of
    them, because it would otherwise keep whole gradients instead of this rank's part.
    """
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()


@torch.no_grad()
def scale_gradients(parameters: Iterable[Tensor], factor: float) -> None:
    """Multiply all gradients by `factor`; parameters without one are left out."""
    gradients = _gradients(parameters)
    if gradients and factor != 1.0:
        torch._foreach_mul_(gradients, factor)


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients together, as a scalar on their device.

    A tensor, so that nobody waits for a GPU here. Shards of FSDP (DTensor) count as the
    whole, and then every rank must call this; the norm is the same on all of them.
    """
    gradients = _gradients(parameters)
    total = nn.utils.get_total_norm(gradients)
    return total.full_tensor() if isinstance(total, DTensor) else total


def clip_factor(norm: float, limit: float) -> float:
    """Return what gradients are multiplied by so that their norm is at most `limit`.

    Args:
        norm: of all of them.
        limit: the largest allowed norm; 0 allows any.
    """
    if 0 < limit < norm < math.inf:
        # The constant is torch's, so that figures compare with clip_grad_norm_.
        return limit / (norm + 1e-6)
    return 1.0


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
