"""Rounding of weights to a grid of blocks, without data: to nearest, and half-quadratic.

Everything works on FP32 [summed, columns] with the summed axis a whole number of blocks;
levels are q in w = (q - zero) * scale.

HQQ: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023
(https://mobiusml.github.io/hqq_blog/). It finds the zero points that minimize the
p-norm, p < 1, of the error, which forgives outliers. Theirs are real numbers; the fast
kernels want whole ones, so each step rounds them, and a block keeps the best step seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_SCALE = 1e-12
# The constants of the HQQ authors' reference implementation.
_NORM, _BETA, _GROWTH, _STEPS = 0.7, 10.0, 1.01, 20
# How far a range is shrunk in search of a better scale.
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grid:
    """Bits of a level, weights in a block, and whether the zero is the middle."""

    bits: int
    block: int
    symmetric: bool

    @property
    def top(self) -> int:
        """The largest level."""
        return int((1 << self.bits) - 1)

    @property
    def middle(self) -> int:
        """The zero point of a symmetric block."""
        return int(1 << (self.bits - 1))


@dataclass(frozen=True, slots=True)
class Rounded:
    """Levels UINT8 [summed, columns]; scales FP32 and zeros UINT8 [blocks, columns]."""

    levels: NDArray[np.uint8]
    scales: Array
    zeros: NDArray[np.uint8]

    def dequantized(self, block: int) -> Array:
        """Return the weights that the levels stand for, FP32 [summed, columns]."""
        scales: Array = np.repeat(self.scales, block, axis=0)
        zeros: Array = np.repeat(self.zeros.astype(np.float32), block, axis=0)
        return (self.levels.astype(np.float32) - zeros) * scales


def scale_and_zero(blocks: Array, grid: Grid) -> tuple[Array, Array]:
    """Return scales and whole zero points, FP32 [blocks, 1, columns], that span each block.

    Args:
        blocks: FP32 [blocks, block, columns].
        grid: what to round to.
    """
    if grid.symmetric:
        # The value of largest magnitude gets the level of largest magnitude, 0: one more
        # level on its side than on the other.
        at = np.abs(blocks).argmax(axis=1, keepdims=True)
        peak = np.take_along_axis(blocks, at, axis=1)
        steps = peak / -grid.middle
        scale: Array = np.where(np.abs(steps) < _LEAST_SCALE, _LEAST_SCALE, steps)
        return scale.astype(np.float32), np.full_like(scale, grid.middle, dtype=np.float32)
    low = np.minimum(blocks.min(axis=1, keepdims=True), 0.0)
    high = np.maximum(blocks.max(axis=1, keepdims=True), 0.0)
    span: Array = np.maximum((high - low) / grid.top, _LEAST_SCALE).astype(np.float32)
    zero: Array = np.clip(np.rint(-low / span), 0, grid.top).astype(np.float32)
    return span, zero


def levels_of(values: Array, scale: Array, zero: Array, grid: Grid) -> Array:
    """Return the nearest levels as whole FP32 numbers."""
    levels: Array = np.clip(np.rint(values / scale) + zero, 0, grid.top)
    return levels


def round_rtn(weight: Array, grid: Grid) -> Rounded:
    """Round to nearest, with the scale and zero that span each block."""
    blocks = weight.reshape(-1, grid.block, weight.shape[1])
    scale, zero = scale_and_zero(blocks, grid)
    return _rounded(blocks, scale, zero, grid)


def round_hqq(weight: Array, grid: Grid) -> Rounded:
    """Round with the zero points (asymmetric) and ranges that the p-norm of the error likes.

    The range of each block is tried at several sizes; a symmetric grid has only that.
    """
    blocks = weight.reshape(-1, grid.block, weight.shape[1])
    spanning, start = scale_and_zero(blocks, grid)
    best_scale, best_zero = spanning.copy(), start.copy()
    best = np.full(spanning.shape, np.inf, np.float32)
    for shrink in _SHRINK:
        scale = (spanning * np.float32(shrink)).astype(np.float32)
        zero, beta = start.copy(), _BETA
        for _ in range(1 if grid.symmetric else _STEPS):
            levels = levels_of(blocks, scale, zero, grid)
            error = blocks - (levels - zero) * scale
            cost = (np.abs(error) ** _NORM).sum(axis=1, keepdims=True)
            better = cost < best
            best = np.where(better, cost, best)
            best_scale = np.where(better, scale, best_scale)
            best_zero = np.where(better, zero, best_zero)
            target = blocks - _shrunk(error, beta)
            centre = np.rint((levels - target / scale).mean(axis=1, keepdims=True))
            moved = np.clip(centre, 0, grid.top).astype(np.float32)
            if np.array_equal(moved, zero):
                break
            zero, beta = moved, beta * _GROWTH
    return _rounded(blocks, best_scale, best_zero, grid)


def _shrunk(error: Array, beta: float) -> Array:
    """Return the proximal operator of the p-norm: large errors stay, small ones become 0."""
    size = np.abs(error)
    threshold = (1 / beta) * np.power(size + 1e-8, _NORM - 1)
    kept: Array = np.sign(error) * np.maximum(size - threshold, 0)
    return kept


def _rounded(blocks: Array, scale: Array, zero: Array, grid: Grid) -> Rounded:
    levels = levels_of(blocks, scale, zero, grid).astype(np.uint8)
    return Rounded(
        levels.reshape(-1, blocks.shape[2]), scale[:, 0, :], zero[:, 0, :].astype(np.uint8)
    )
