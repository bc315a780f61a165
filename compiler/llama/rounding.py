"""Better rounding into llama.cpp's 32-element block formats, at the same size.

llama.cpp rounds each weight to the nearest step of a block scale that it picks from the
block alone. Here the scale of each block is searched for the least weighted squared error,
and each column's rounding error is passed on to the columns that follow it, so that the
errors cancel in the sum that the layer computes for the inputs it really sees. That is
GPTQ (Frantar et al., 2023, arXiv:2210.17323) with a group of one block, over the second
moments of the layer's input.

Formats: Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, with the byte layout of ggml-common.h. Anything
else is refused. Deterministic for one BLAS and its number of threads.

Work is done on transposed slices, [columns, rows], so that a column is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import QuantizationError

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
BLOCK: Final = 32
ROWS: Final = 4096
"""Rows that are rounded at a time; bounds memory at about 12 bytes x columns x ROWS."""

# Gemma 3 270M's output layer in IQ4_NL, 6,144 tokens: KL 0.025 with this, 0.031 with 0.01.
_DAMPING = 0.001
# Widths of the grid tried for each block, relative to the one that just holds the block.
_WIDTHS = np.linspace(0.72, 1.06, 12, dtype=np.float32)
# kvalues_iq4nl of ggml-common.h.
_IQ4_NL = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that a format can hold in a block: scale x level + offset.

    Attributes:
        levels: float32[codes], ascending.
        affine: whether a block has an offset of its own (Q4_1, Q5_1).
        wide: whether a code has a fifth bit, stored apart.
    """

    levels: Floats
    affine: bool
    wide: bool

    def nearest(self, scaled: Floats) -> Codes:
        """Return the code of the level nearest to each scaled value."""
        if self.levels is _IQ4_NL:
            # Midpoints between the levels are multiples of a half: a table finds them.
            codes: Codes = np.take(
                _IQ4_NL_TABLE, np.clip(np.rint(scaled * 2) + 256, 0, 512).astype(np.int16)
            )
            return codes
        low, high = self.levels[0], self.levels[-1]
        codes = (np.clip(np.rint(scaled), low, high) - low).astype(np.uint8)
        return codes

    def values(self, codes: Codes) -> Floats:
        """Return the level of each code."""
        if self.levels is _IQ4_NL:
            values: Floats = np.take(_IQ4_NL, codes)
            return values
        values = codes.astype(np.float32) + self.levels[0]
        return values


_IQ4_NL_TABLE = np.abs((np.arange(513) - 256)[:, None] / 2 - _IQ4_NL).argmin(1).astype(np.uint8)
GRIDS: Final = {
    "Q4_0": Grid(np.arange(-8, 8, dtype=np.float32), False, False),
    "Q4_1": Grid(np.arange(16, dtype=np.float32), True, False),
    "Q5_0": Grid(np.arange(-16, 16, dtype=np.float32), False, True),
    "Q5_1": Grid(np.arange(32, dtype=np.float32), True, True),
    "IQ4_NL": Grid(_IQ4_NL, False, False),
}


def propagation(moments: Floats, damping: float = _DAMPING) -> Floats:
    """Return how an error in a column is made up for by the columns after it.

    Args:
        moments: float32[columns, columns], the mean of x xT over the layer's inputs x.
        damping: added to the diagonal, relative to its mean, so that columns that were
            hardly ever active do not explode.

    Returns:
        float32[columns, columns], the upper Cholesky factor of the inverse.

    Raises:
        QuantizationError: the moments are not those of real inputs.
    """
    matrix = moments.astype(np.float64)
    size = len(matrix)
    mean = float(np.trace(matrix)) / size
    if not np.isfinite(matrix).all() or mean <= 0:
        raise QuantizationError("the second moments are not finite or all zero; gather them anew")
    matrix[np.diag_indices(size)] += damping * mean
    # The upper factor of the inverse, by way of the matrix turned end to end.
    lower = np.linalg.cholesky(matrix[::-1, ::-1])
    inverse = np.linalg.inv(lower)[::-1, ::-1]
    return np.ascontiguousarray(inverse.astype(np.float32))


def encode(kind: str, rows: Floats, factor: Floats) -> Codes:
    """Round float32[rows, columns] with error feedback; uint8[rows, bytes of a row].

    Args:
        factor: what `propagation` made of the moments of this layer's input.

    Raises:
        QuantizationError: the format has no better rounding here.
    """
    grid = GRIDS.get(kind)
    if grid is None:
        raise QuantizationError(f"{kind} has no rounding with feedback; {', '.join(GRIDS)} have")
    left = np.ascontiguousarray(rows.T)
    columns, count = left.shape
    diagonal = np.diagonal(factor)
    blocks = []
    for start in range(0, columns, BLOCK):
        end = start + BLOCK
        block = left[start:end]
        # What an error in a column costs when those after it make up for it.
        cost = (1.0 / np.square(diagonal[start:end])).astype(np.float32)[:, None]
        scale, offset = _fit(grid, block, cost / cost.mean())
        codes, errors = _round(grid, block, scale, offset, factor[start:end, start:end])
        if end < columns:
            left[end:] -= factor[start:end, end:].T @ errors
        blocks.append(_pack(grid, scale, offset, codes))
    return np.concatenate(blocks, axis=1).reshape(count, -1)


def _round(
    grid: Grid, block: Floats, scale: Floats, offset: Floats, factor: Floats
) -> tuple[Codes, Floats]:
    """Round a block's columns one by one; return codes and scaled errors."""
    codes = np.empty(block.shape, np.uint8)
    errors = np.empty(block.shape, np.float32)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    for j in range(len(block)):
        codes[j] = grid.nearest((block[j] - offset) * inverse)
        rounded = grid.values(codes[j]) * scale + offset
        errors[j] = (block[j] - rounded) / factor[j, j]
        if j + 1 < len(block):
            block[j + 1 :] -= factor[j, j + 1 :, None] * errors[j]
    return codes, errors


def _fit(grid: Grid, block: Floats, cost: Floats) -> tuple[Floats, Floats]:
    """Find scale and offset of each row's block, as float16 can hold them."""
    return (_fit_affine if grid.affine else _fit_scale)(grid, block, cost)


def _half(values: Floats) -> Floats:
    return np.clip(values, -65504, 65504).astype(np.float16).astype(np.float32)


class _Best:
    """The scale and offset of least cost so far, for each row."""

    def __init__(self, grid: Grid, block: Floats, cost: Floats) -> None:
        self._grid, self._block, self._cost = grid, block, cost
        count = block.shape[1]
        self.scale = np.zeros(count, np.float32)
        self.offset = np.zeros(count, np.float32)
        self._least = np.full(count, np.inf, np.float32)

    def levels(self, scale: Floats, offset: Floats) -> Floats:
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
        return self._grid.values(self._grid.nearest((self._block - offset) * inverse))

    def offer(self, scale: Floats, offset: Floats) -> None:
        scale, offset = _half(scale), _half(offset)
        error = self._block - offset
        error -= self.levels(scale, offset) * scale
        total = np.einsum("ij,ij,i->j", error, error, self._cost[:, 0])
        better = total < self._least
        self._least = np.where(better, total, self._least)
        self.scale = np.where(better, scale, self.scale)
        self.offset = np.where(better, offset, self.offset)


def _fit_scale(grid: Grid, block: Floats, cost: Floats) -> tuple[Floats, Floats]:
    best = _Best(grid, block, cost)
    none = np.zeros(block.shape[1], np.float32)
    peak = np.take_along_axis(block, np.abs(block).argmax(0)[None], 0)[0]
    # The longer, negative end of the grid goes to the largest weight; or its other end.
    for end in (grid.levels[0], grid.levels[-1]):
        for width in _WIDTHS:
            best.offer(peak * width / end, none)
    # Least squares for the codes that the best scale gives.
    levels = best.levels(best.scale, none)
    weight = (levels * levels * cost).sum(0)
    fitted = (levels * block * cost).sum(0) / np.where(weight > 0, weight, 1)
    best.offer(fitted.astype(np.float32), none)
    return best.scale, best.offset


def _fit_affine(grid: Grid, block: Floats, cost: Floats) -> tuple[Floats, Floats]:
    best = _Best(grid, block, cost)
    low, high = block.min(0), block.max(0)
    middle, half = (low + high) / 2, (high - low) / 2
    for width in _WIDTHS:
        best.offer(2 * half * width / grid.levels[-1], middle - half * width)
    for _ in range(2):
        levels = best.levels(best.scale, best.offset)
        total = cost.sum()
        mean_level = (levels * cost).sum(0) / total
        mean = (block * cost).sum(0) / total
        centred = levels - mean_level
        spread = (centred * centred * cost).sum(0)
        slope = (centred * (block - mean) * cost).sum(0) / np.where(spread > 0, spread, 1)
        best.offer(slope.astype(np.float32), (mean - slope * mean_level).astype(np.float32))
    return best.scale, best.offset


def _pack(grid: Grid, scale: Floats, offset: Floats, codes: Codes) -> Codes:
    """Lay out a block for each row as ggml does; codes are [32, rows]."""
    half = BLOCK // 2
    parts = [scale.astype("<f2").view(np.uint8).reshape(-1, 2)]
    if grid.affine:
        parts.append(offset.astype("<f2").view(np.uint8).reshape(-1, 2))
    if grid.wide:
        parts.append(np.packbits((codes >> 4).T, axis=1, bitorder="little"))
    low = codes & 15
    parts.append((low[:half] | (low[half:] << 4)).T.astype(np.uint8))
    return np.concatenate(parts, axis=1)


def encoder(kind: str, moments: Floats) -> Callable[[Floats], Codes]:
    """Return a function that rounds slices of rows of one matrix."""
    factor = propagation(moments)
    return lambda rows: encode(kind, rows, factor)
