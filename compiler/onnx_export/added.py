"""Layers that the trainer puts behind a network: dense ones, and pooling.

A dense layer that finetuning adds is x + GELU(W x + b), with the exact GELU (Hendrycks
and Gimpel, 2016).
"""

from __future__ import annotations

import math

import numpy as np

from compiler.encoder.names import ATTENTION_MASK
from compiler.onnx_export.graph import ModelBuilder


def add_dense_layers(builder: ModelBuilder, value: str, prefix: str, count: int, width: int) -> str:
    """Add `count` dense layers behind a value [..., width]; return the result's name.

    Args:
        builder: takes the nodes.
        value: name of the value.
        prefix: of the tensors in the files: "added" or "task_layers".
        count: how many.
        width: of the states.
    """
    for index in range(count):
        name = f"{prefix}.{index}.dense"
        inner = builder.linear(value, name, width, width, bias=True)
        value = builder.node("Add", value, _gelu(builder, inner, name))
    return value


def last_token(builder: ModelBuilder, states: str) -> str:
    """Pick the state of the last token that the mask keeps: [B, T, D] to [B, D]."""
    one = builder.constant("last.one", np.array(1, np.int64))
    length = builder.node("Shape", ATTENTION_MASK, start=1, end=2)
    zero = builder.constant("last.zero", np.array(0, np.int64))
    scalar = builder.node("Squeeze", length, builder.constant("last.axes", np.array([0])))
    steps = builder.node("Range", zero, scalar, one)
    kept = builder.node("Mul", steps, ATTENTION_MASK)
    last = builder.node("ArgMax", kept, axis=1, keepdims=1)
    # [B, 1] -> [B, 1]: the batch stays, one row of the sequence is taken.
    index = builder.node("Unsqueeze", last, builder.constant("last.width", np.array([2])))
    width = builder.node("Shape", states, start=2, end=3)
    ones = builder.constant("last.ones", np.array([1, 1], np.int64))
    shape = builder.node("Concat", ones, width, axis=0)
    taken = builder.node("GatherElements", states, builder.node("Expand", index, shape), axis=1)
    return builder.node("Squeeze", taken, builder.constant("last.drop", np.array([1])))


def _gelu(builder: ModelBuilder, value: str, name: str) -> str:
    root = builder.constant(f"{name}.root_two", np.array(math.sqrt(2), np.float32))
    curve = builder.node("Erf", builder.node("Div", value, root))
    curve = builder.node("Add", curve, builder.constant(f"{name}.one", np.array(1, np.float32)))
    half = builder.constant(f"{name}.half", np.array(0.5, np.float32))
    return builder.node("Mul", builder.node("Mul", value, curve), half)
