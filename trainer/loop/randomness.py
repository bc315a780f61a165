"""Randomness without state.

Every random number of a run is a function of the recipe's seed and of where it is
used: weights of a fixed stream, dropout of the (update, micro-batch) it falls in. So
nothing has to be saved to resume, a resumed run on a CPU is bit-identical to one that
was never interrupted, and two ranks draw for a micro-batch what one rank would draw.
"""

from __future__ import annotations

import torch

from trainer.data.order import mix

# Streams that must not meet: initial weights, and what micro-batches draw.
_WEIGHTS = 1
_MICRO_BATCHES = 2


def seed_weights(seed: int) -> None:
    """Seed torch's generators for the initial weights."""
    torch.manual_seed(mix(_WEIGHTS, seed))


def seed_micro_batch(seed: int, step: int, index: int, device: torch.device) -> None:
    """Seed the generators that one micro-batch draws from.

    Not by torch.manual_seed: without a GPU it formats the whole stack at every call, to
    tell later where a GPU that never comes was seeded, which takes about a millisecond.

    Args:
        seed: the recipe's seed.
        step: updates made before.
        index: number of the micro-batch within the update, over all ranks.
        device: where the micro-batch is computed.
    """
    value = mix(_MICRO_BATCHES, seed, step, index)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
