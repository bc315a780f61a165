"""Gradients of a step: added up over micro-batches and ranks, scaled, clipped.

Gradients are sums over everything that was seen, never means over ranks: losses are sums
over targets, and one division by the number of targets of the global batch (`scale_gradients`)
makes the mean. So one rank, several, and any cut into micro-batches give the same update.
"""

from __future__ import annotations

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
    if gradients:
        torch._foreach_mul_(gradients, factor)


@torch.no_grad()
def clip_norm(parameters: Iterable[Tensor], limit: float) -> float:
    """Scale all gradients down so that their global L2 norm is at most `limit`.

    Args:
        parameters: of the whole network; shards of FSDP (DTensor) count as the whole, and
            then every rank must call this.
        limit: the largest allowed norm; 0 only measures.

    Returns:
        The norm before clipping, the same on every rank; nan or inf where a gradient is,
        and then the gradients are left as they are.
    """
    gradients = _gradients(parameters)
    if not gradients:
        return 0.0
    total = nn.utils.get_total_norm(gradients)
    norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
    # The constant is torch's, so that figures compare with clip_grad_norm_.
    if limit > 0 and limit < norm < float("inf"):
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return norm


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
