"""Weights in blocks of 4 or 8 bits along the summed axis: the operator MatMulNBits.

Each column is cut into blocks of `block` weights with one scale and one zero point:
w = (q - zero) * scale, q unsigned. Stored are, as onnxruntime's contrib operator wants them,
q as UINT8 [columns, blocks, block * bits / 8] with the first weight in the low bits, scales
FP32 [columns * blocks], zero points UINT8 packed by column (none when symmetric: then the
zero is the middle, 2^(bits-1)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from compiler.onnx_quantize.edit import MICROSOFT, GraphEdit
from compiler.onnx_quantize.gptq import round_gptq
from compiler.onnx_quantize.plan import GPTQ, HQQ, OnnxPlan
from compiler.onnx_quantize.rounding import Grid, round_hqq, round_rtn
from compiler.onnx_quantize.sites import Site, matrix


@dataclass(frozen=True, slots=True)
class Blocks:
    """A packed matrix: weights, scales and zero points as MatMulNBits takes them."""

    weights: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8] | None


def quantize_blocks(
    weight: NDArray[np.float32], plan: OnnxPlan, hessian: NDArray[np.float64] | None = None
) -> Blocks:
    """Round and pack a matrix.

    Args:
        weight: FP32 [summed, columns].
        plan: bits, block, rounding, symmetric.
        hessian: FP64 [summed, summed], mean of x x^T over calibration, for GPTQ.
    """
    grid = Grid(plan.bits, plan.block, plan.symmetric)
    summed, columns = weight.shape
    padded = np.pad(weight, ((0, -summed % plan.block), (0, 0)))
    if plan.rounding == GPTQ and hessian is not None:
        rounded = round_gptq(padded, grid, hessian)
    elif plan.rounding == HQQ:
        rounded = round_hqq(padded, grid)
    else:
        rounded = round_rtn(padded, grid)
    blocks = len(padded) // plan.block
    levels = rounded.levels.transpose(1, 0).reshape(columns, blocks, plan.block)
    zeros = None if plan.symmetric else _pack(rounded.zeros.T, plan.bits).reshape(-1)
    scales = np.ascontiguousarray(rounded.scales.T).reshape(-1).astype(np.float32)
    return Blocks(_pack(levels, plan.bits), scales, zeros)


def _pack(levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack the last axis, two to a byte for 4 bits, the first in the low half."""
    if bits == 8:
        return np.ascontiguousarray(levels)
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros_like(levels[..., :1])], axis=-1)
    high = np.left_shift(levels[..., 1::2], 4).astype(np.uint8)
    packed: NDArray[np.uint8] = levels[..., 0::2] | high
    return packed


def add_blocks(
    edit: GraphEdit,
    model: ModelProto,
    sites: Sequence[Site],
    plan: OnnxPlan,
    hessians: Mapping[str, NDArray[np.float64]],
) -> None:
    """Replace matrix products by MatMulNBits.

    Args:
        edit, model, sites, plan: what to replace, how.
        hessians: for GPTQ, of each activation.
    """
    for site in sites:
        weight = matrix(model, site)
        packed = quantize_blocks(weight, plan, hessians.get(site.activation))
        # The same tensor may meet other activations, and then rounds differently.
        name = site.output if plan.rounding == GPTQ else site.tensor + "_t" * site.transposed
        inputs = [
            site.activation,
            edit.constant(name, "blocks", packed.weights),
            edit.constant(name, "scales", packed.scales),
            "" if packed.zeros is None else edit.constant(name, "zeros", packed.zeros),
            "",
            site.bias or "",
        ]
        while not inputs[-1]:
            inputs.pop()
        edit.remove(site)
        edit.node(
            site.node,
            "MatMulNBits",
            inputs,
            [site.output],
            domain=MICROSOFT,
            K=weight.shape[0],
            N=weight.shape[1],
            bits=plan.bits,
            block_size=plan.block,
            accuracy_level=plan.accuracy_level,
        )
