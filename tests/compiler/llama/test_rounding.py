"""Better rounding: the layout is ggml's, and the error of the layer's output is smaller."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.errors import QuantizationError
from compiler.llama import rounding

COLUMNS = 96


def moments(seed: int = 0) -> NDArray[np.float32]:
    """Second moments of correlated inputs of unequal size."""
    random = np.random.default_rng(seed)
    mixing = np.eye(COLUMNS) + 0.3 * random.standard_normal((COLUMNS, COLUMNS))
    inputs = (
        random.standard_normal((2000, COLUMNS)) * np.exp(random.standard_normal(COLUMNS))
    ) @ mixing
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


def decoded(kind: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    return np.asarray(found, np.float32)


def disturbance(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Mean squared error of the layer's output over the inputs."""
    error = exact - found
    return float(np.einsum("ij,jk,ik->", error, moments(), error, optimize=True))


@pytest.mark.parametrize("kind", sorted(rounding.GRIDS))
def test_the_output_is_disturbed_less_than_by_nearest_rounding(kind: str) -> None:
    from compiler.llama.jobs import ggml

    weights = np.random.default_rng(1).standard_normal((256, COLUMNS)).astype(np.float32)
    squares = np.ascontiguousarray(np.diagonal(moments()))
    ours = rounding.encode(kind, weights, rounding.propagation(moments()))
    plain = ggml.quantize(kind, weights)
    weighted = ggml.quantize(kind, weights, squares)
    assert ours.shape == plain.shape
    errors = [disturbance(weights, decoded(kind, data)) for data in (ours, weighted, plain)]
    assert errors[0] < 0.5 * errors[1]
    assert errors[0] < 0.5 * errors[2]


@pytest.mark.parametrize("kind", sorted(rounding.GRIDS))
def test_rows_of_zeros_stay_zeros(kind: str) -> None:
    weights = np.zeros((3, COLUMNS), np.float32)
    data = rounding.encode(kind, weights, rounding.propagation(moments()))
    assert not decoded(kind, data).any()


def test_dead_columns_do_not_explode() -> None:
    matrix = moments()
    matrix[5] = matrix[:, 5] = 0
    weights = np.random.default_rng(2).standard_normal((8, COLUMNS)).astype(np.float32)
    found = decoded("Q4_0", rounding.encode("Q4_0", weights, rounding.propagation(matrix)))
    assert np.abs(found - weights).max() < 2


def test_moments_that_are_none_are_refused() -> None:
    with pytest.raises(QuantizationError, match="all zero"):
        rounding.propagation(np.zeros((COLUMNS, COLUMNS), np.float32))
    with pytest.raises(QuantizationError, match="Q4_K has no rounding"):
        rounding.encode("Q4_K", np.zeros((1, COLUMNS), np.float32), moments())
