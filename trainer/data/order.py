"""Which item comes when, and where its noise comes from, without any state.

The order of an epoch is a keyed permutation that can be asked for any position: a
generalized Feistel network over a grid a x b that covers [0, size), with cycle walking
for the few cells outside (Black and Rogaway, "Ciphers with arbitrary finite domains",
2002). Nothing is stored, whatever the size, so a resumed run asks for its next position
and has the same order, on any number of ranks and any platform.

This mixes well for training; it is no cryptography and no source of private sampling.
"""

from __future__ import annotations

import functools
import math

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
# Four rounds are the least at which a Feistel network looks random to an observer
# who may ask both ways (Luby and Rackoff); the rest makes small sizes even.
_ROUNDS = 8


def mix(*values: int) -> int:
    """Return 63 well-mixed bits of several integers, fit for torch.manual_seed.

    Every value is folded in with splitmix64's finalizer (Steele, Lea and Flood, 2014).
    """
    state = 0
    for value in values:
        state = _scramble((state + _GOLDEN) ^ (value & _MASK))
    return state >> 1


def _scramble(state: int) -> int:
    state &= _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def noise(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator of one item's noise: masks, spans, augmentation."""
    return np.random.Generator(np.random.Philox(key=[mix(seed, epoch), mix(epoch, index, seed)]))


@functools.lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(mix(seed, epoch, number) for number in range(_ROUNDS))


def permute(seed: int, epoch: int, size: int, position: int) -> int:
    """Return the item at a position of an epoch: a permutation of range(size).

    Raises:
        ValueError: the position is not in range(size).
    """
    if not 0 <= position < size:
        raise ValueError(f"position {position} is not below {size}")
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    keys = _round_keys(seed, epoch)
    value = position
    while True:
        left, right = divmod(value, columns)
        for number, key in enumerate(keys):
            if number % 2:
                right = (right + _scramble(left ^ key)) % columns
            else:
                left = (left + _scramble(right ^ key)) % rows
        value = left * columns + right
        if value < size:
            return value


def item_at(seed: int, size: int, position: int) -> tuple[int, int]:
    """Return (epoch, index) of a position in the endless stream of items."""
    epoch, within = divmod(position, size)
    return epoch, permute(seed, epoch, size, within)
