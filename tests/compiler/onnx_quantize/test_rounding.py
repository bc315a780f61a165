"""Rounding, judged by what is left of the weights and of the products with them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.onnx_quantize.calibrate import entropy_range, percentile_range
from compiler.onnx_quantize.gptq import round_gptq
from compiler.onnx_quantize.int8 import quantize_matrix
from compiler.onnx_quantize.plan import OnnxPlan
from compiler.onnx_quantize.rounding import Grid, round_hqq, round_rtn

BLOCK = 32
Array = NDArray[np.float32]


def weights(rows: int = 128, columns: int = 48) -> Array:
    random = np.random.default_rng(1)
    values = random.standard_normal((rows, columns)).astype(np.float32)
    values[::37] *= 6  # outliers, as real weights have
    return values


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_nearest_is_within_half_a_step(bits: int, symmetric: bool) -> None:
    weight = weights()
    rounded = round_rtn(weight, Grid(bits, BLOCK, symmetric))
    steps = np.abs(np.repeat(rounded.scales, BLOCK, axis=0))
    error = np.abs(rounded.dequantized(BLOCK) - weight)
    # A symmetric grid has one level less on the side of smaller magnitude, and a zero point
    # is rounded too: a step at the very ends.
    assert (error <= steps * 1.001).all()
    assert (error <= steps * 0.501).mean() > 0.97


@pytest.mark.parametrize("symmetric", [True, False])
def test_half_quadratic_beats_nearest_in_its_norm(symmetric: bool) -> None:
    weight, grid = weights(), Grid(4, BLOCK, symmetric)

    def cost(values: Array) -> float:
        return float((np.abs(values - weight) ** 0.7).sum())

    assert cost(round_hqq(weight, grid).dequantized(BLOCK)) < 0.99 * cost(
        round_rtn(weight, grid).dequantized(BLOCK)
    )


def test_error_feedback_beats_nearest_on_correlated_inputs() -> None:
    weight, grid = weights(), Grid(4, BLOCK, False)
    random = np.random.default_rng(2)
    inputs = random.standard_normal((512, 16)) @ random.standard_normal((16, 128))
    inputs += 0.1 * random.standard_normal(inputs.shape)
    rounded = round_gptq(weight, grid, inputs.T @ inputs / len(inputs))

    def cost(values: Array) -> float:
        return float(((inputs @ (values - weight)) ** 2).sum())

    assert cost(rounded.dequantized(BLOCK)) < 0.5 * cost(round_rtn(weight, grid).dequantized(BLOCK))


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, grid = weights(), Grid(4, BLOCK, False)
    for moments in (np.zeros((128, 128)), np.diag(np.r_[np.ones(64), np.zeros(64)])):
        rounded = round_gptq(weight, grid, moments)
        assert np.isfinite(rounded.dequantized(BLOCK)).all()
        assert np.abs(rounded.dequantized(BLOCK) - weight).max() < 3


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_block_of_one_value_is_kept(value: float, symmetric: bool) -> None:
    weight = np.full((BLOCK, 2), value, np.float32)
    for make in (round_rtn, round_hqq):
        found = make(weight, Grid(8, BLOCK, symmetric)).dequantized(BLOCK)
        np.testing.assert_allclose(found, weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("reduce", "limit"), [(False, 127), (True, 64)])
def test_int8_weights_keep_their_range(reduce: bool, limit: int) -> None:
    packed, scale = quantize_matrix(weights(), OnnxPlan(reduce_range=reduce))
    assert packed.dtype == np.int8
    assert scale.shape == (48,)
    assert np.abs(packed.astype(int)).max(axis=0).tolist() == [limit] * 48
    assert quantize_matrix(weights(), OnnxPlan(per_channel=False))[1].shape == ()


def test_ranges_cut_rare_outliers() -> None:
    random = np.random.default_rng(3)
    values = np.r_[random.standard_normal(100_000), 60.0]
    span = (float(values.min()), float(values.max()))
    counts = np.histogram(values, 2048, range=span)[0]
    low, high = percentile_range(counts, span, 99.9)
    assert -5 < low < -2.5
    assert 2.5 < high < 5
    low, high = entropy_range(counts, span)
    assert high < 30
    assert percentile_range(counts, span, 100.0) == pytest.approx(span)
