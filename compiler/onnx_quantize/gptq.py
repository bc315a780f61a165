"""Rounding with error feedback: GPTQ.

Weights are rounded one summed index at a time; what an index loses is made up by those not
yet rounded, as far as the inputs of calibration correlate. Scales and zero points of a
block are taken when its first index is reached, from the weights as they are by then.

Frantar, Ashkboos, Hoefler, Alistarh, GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers, 2022, algorithm 1 with lazy batches of one block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.onnx_quantize.rounding import Grid, Rounded, levels_of, scale_and_zero

# Of the mean of the diagonal: keeps the matrix invertible where inputs are dependent.
_DAMPING = 0.01


def round_gptq(weight: NDArray[np.float32], grid: Grid, hessian: NDArray[np.float64]) -> Rounded:
    """Round FP32 [summed, columns]; `hessian` may lack the rows that padding added.

    Args:
        weight: the summed axis is a whole number of blocks.
        grid: what to round to.
        hessian: FP64 [n, n], mean of x x^T over calibration inputs x, n <= summed.
    """
    factor = _factor(hessian, len(weight))
    left = weight.astype(np.float64)
    levels = np.zeros(weight.shape, np.uint8)
    scales, zeros = [], []
    for start in range(0, len(weight), grid.block):
        end = start + grid.block
        block = left[start:end].astype(np.float32)
        scale, zero = (item[0] for item in scale_and_zero(block[None], grid))
        scales.append(scale)
        zeros.append(zero)
        lost = np.zeros((grid.block, weight.shape[1]))
        for offset in range(grid.block):
            row = start + offset
            values = left[row : row + 1].astype(np.float32)
            level = levels_of(values, scale, zero, grid)
            levels[row] = level[0].astype(np.uint8)
            error = (left[row] - ((level - zero) * scale)[0]) / factor[row, row]
            left[row:end] -= np.outer(factor[row, row:end], error)
            lost[offset] = error
        left[end:] -= factor[start:end, end:].T @ lost
    return Rounded(levels, np.concatenate(scales), np.concatenate(zeros).astype(np.uint8))


def _factor(hessian: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the upper Cholesky factor of the damped inverse, [size, size]."""
    full = np.eye(size)
    count = len(hessian)
    full[:count, :count] = hessian
    diagonal = np.diagonal(full).copy()
    # An input that is always 0 says nothing of its weights.
    dead = diagonal == 0
    full[dead, dead] = 1.0
    full += np.eye(size) * (_DAMPING * float(diagonal[~dead].mean()) if (~dead).any() else 1.0)
    upper: NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(full)).T
    return upper
