"""Which device a rank computes on, and how it is called."""

from __future__ import annotations

import torch

from trainer.distribution.environment import Ranks
from trainer.errors import RecipeError


def choose_device(wanted: str, ranks: Ranks) -> torch.device:
    """Return the device of a rank for a recipe's `run.device`.

    Raises:
        RecipeError: a GPU is asked for and this machine has too few for its ranks.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if ranks.local_rank >= found:
        raise RecipeError(
            f"rank {ranks.rank} is number {ranks.local_rank} on its machine, which has {found} "
            "GPUs: start one rank for each GPU, or set run.device=cpu"
        )
    device = torch.device("cuda", ranks.local_rank)
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """Return a device's name for people, and for looking up its peak speed."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu ({torch.get_num_threads()} threads)"


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the largest allocation on a GPU so far; None on a CPU, where torch keeps none."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
