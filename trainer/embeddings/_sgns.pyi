"""The inner loop of skip-gram with negative sampling, in C++ (`_sgns.cpp`).

Both functions work without the interpreter lock. Shapes: V words, D floats of a row (a
multiple of 16), N ids. All buffers are C-contiguous and the matrices start at a multiple
of 64 bytes.

Raises:
    TypeError: a buffer holds another type.
    ValueError: a shape, an alignment, a setting or an entry of `alias` is wrong.
    IndexError: a word's id is outside the vocabulary; what came before it was trained.
    BufferError: a buffer is not contiguous or, for `train`, read-only.
"""

import numpy as np
from numpy.typing import NDArray

def train(
    inputs: NDArray[np.float32],  # [V, D], changed in place
    outputs: NDArray[np.float32],  # [V, D], changed in place
    words: NDArray[np.int32],  # [N]; -1 ends a sentence, -2 is passed over
    keep: NDArray[np.uint32],  # [V]; a word stays with the chance keep / 2^32; 2^32 - 1 always
    alias: NDArray[np.uint32],  # [V, 2]; threshold and other word of an alias table
    *,
    window: int,  # 1 to 64
    negatives: int,  # 1 to 64
    seed: int,  # 64 bits are used
    rate: float,  # the learning rate of this chunk
    kernel: str = "",  # a name from `kernels`; empty is the fastest
) -> tuple[int, int, float, int]:
    """Train on one chunk; return (words kept, pairs, loss, pairs the loss was summed over)."""

def measure(
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    words: NDArray[np.int32],
    keep: NDArray[np.uint32],
    alias: NDArray[np.uint32],
    *,
    window: int,
    negatives: int,
    seed: int,
    kernel: str = "",
) -> tuple[int, int, float, int]:
    """Sum the loss over all pairs of a chunk and change nothing; returns what `train` does."""

def kernels() -> tuple[str, ...]:
    """Return the kernels that this processor can run, the fastest first."""
