"""What is done with a batch before a network sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from trainer.data.batch import Batch

# Makes the context that a forward pass runs in.
Autocast = Callable[[], AbstractContextManager[object]]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device; from pinned memory the copies do not wait."""
    if device.type == "cpu":
        return batch
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def count_tokens(batch: Batch) -> int:
    """Return the input tokens of a batch on the CPU, padding left out."""
    total = 0
    for prefix in ("", "pair_"):
        mask = batch.get(f"{prefix}attention_mask")
        ids = batch.get(f"{prefix}input_ids")
        if mask is not None:
            total += int(mask.sum())
        elif ids is not None:
            total += ids.numel()
    return total


def autocast(dtype: str, device: torch.device) -> Autocast:
    """Return what makes the context of a forward pass for a recipe's `precision.dtype`."""
    if dtype == "float32":
        return nullcontext
    kind = getattr(torch, dtype)
    return lambda: torch.autocast(device.type, dtype=kind)
