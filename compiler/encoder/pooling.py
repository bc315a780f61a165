"""From hidden states to one vector a text, as nodes of a graph.

Only operators whose meaning did not change between opset 7 and today are used (axes
of ReduceSum and friends moved from attributes to inputs), so the same nodes can be
appended to a graph of any opset.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from compiler.encoder.graph import GraphBuilder
from compiler.encoder.names import ATTENTION_MASK, EMBEDDING

MEAN, CLS = "mean", "cls"
POOLINGS = (MEAN, CLS)

# As sentence-transformers: the least token count, and the least norm.
_LEAST_COUNT = 1e-9
_LEAST_NORM = 1e-12


def add_embedding(builder: GraphBuilder, hidden: str, pooling: str, *, normalize: bool) -> str:
    """Pool FP32 [batch, sequence, dim] into `embedding`, FP32 [batch, dim].

    Mean pooling averages over the tokens that the attention mask keeps; "cls" takes
    the first token. Normalized means divided by the L2 norm.
    """
    pooled = _mean(builder, hidden) if pooling == MEAN else first_token(builder, hidden)
    return add_normalized(builder, pooled, normalize=normalize)


def add_normalized(builder: GraphBuilder, pooled: str, *, normalize: bool) -> str:
    """Turn FP32 [batch, dim] into the output `embedding`, normalized if asked."""
    if not normalize:
        return builder.node("Identity", pooled, output=EMBEDDING)
    row = builder.node("Reshape", pooled, builder.constant("row_shape", _shape(0, 1, -1)))
    column = builder.node("Reshape", pooled, builder.constant("column_shape", _shape(0, -1, 1)))
    squared = builder.node("MatMul", row, column)
    norm = builder.node("Sqrt", squared)
    floor = builder.constant("least_norm", np.array(_LEAST_NORM, np.float32))
    norm = builder.node("Max", norm, floor)
    norm = builder.node("Reshape", norm, builder.constant("scalar_shape", _shape(0, 1)))
    return builder.node("Div", pooled, norm, output=EMBEDDING)


def first_token(builder: GraphBuilder, hidden: str) -> str:
    """Take the first token's state: [batch, sequence, dim] to [batch, dim]."""
    zero = builder.constant("first", np.array(0, np.int64))
    return builder.node("Gather", hidden, zero, axis=1)


def _mean(builder: GraphBuilder, hidden: str) -> str:
    mask = builder.node("Cast", ATTENTION_MASK, to=TensorProto.FLOAT)
    row = builder.node("Reshape", mask, builder.constant("mask_row", _shape(0, 1, -1)))
    column = builder.node("Reshape", mask, builder.constant("mask_column", _shape(0, -1, 1)))
    # The mask is 0 or 1, so its product with itself counts the tokens kept.
    count = builder.node("MatMul", row, column)
    floor = builder.constant("least_count", np.array(_LEAST_COUNT, np.float32))
    total = builder.node("MatMul", row, hidden)
    mean = builder.node("Div", total, builder.node("Max", count, floor))
    return builder.node("Reshape", mean, builder.constant("pooled_shape", _shape(0, -1)))


def _shape(*sizes: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(sizes, np.int64)
