"""The adaptive softmax as a graph: log-probabilities over the whole vocabulary.

Grave et al., "Efficient softmax approximation for GPUs", 2017. The head holds the
frequent tokens and one entry for each cluster; a token of a cluster has the sum of its
cluster's and its own log-probability. So the output is a true distribution, and serves as
logits wherever they are wanted.
"""

from __future__ import annotations

from itertools import count

import numpy as np

from compiler.errors import SourceError
from compiler.onnx_export.graph import ModelBuilder
from compiler.weights.reading import Weights


def add_adaptive_softmax(
    builder: ModelBuilder, stored: Weights, states: str, width: int, vocabulary: int
) -> str:
    """Turn states FP32 [..., width] into the output `logits`, FP32 [..., vocabulary].

    Raises:
        SourceError: the clusters do not make up the vocabulary.
    """
    clusters = _clusters(stored, width)
    frequent = vocabulary - sum(rows for _, rows in clusters)
    if frequent < 1:
        raise SourceError(f"{stored.folder}: the clusters hold more than the {vocabulary} tokens")
    entries = frequent + len(clusters)
    head = builder.linear(states, "head.head", entries, width, bias=False)
    head = builder.node("LogSoftmax", head, axis=-1)
    pieces = [_columns(builder, head, 0, frequent)]
    for index, (inner, rows) in enumerate(clusters):
        name = f"head.tail.{index}"
        narrow = builder.linear(states, f"{name}.0", inner, width, bias=False)
        scores = builder.linear(narrow, f"{name}.1", rows, inner, bias=False)
        inside = builder.node("LogSoftmax", scores, axis=-1)
        cluster = _columns(builder, head, frequent + index, frequent + index + 1)
        pieces.append(builder.node("Add", inside, cluster))
    return builder.node("Concat", *pieces, axis=-1)


def _clusters(stored: Weights, width: int) -> list[tuple[int, int]]:
    """Return the inner width and the number of tokens of each cluster."""
    found: list[tuple[int, int]] = []
    for index in count():
        name = f"head.tail.{index}"
        if f"{name}.0.weight" not in stored.tensors:
            return found
        narrow, rows = (stored.tensor(f"{name}.{part}.weight").shape for part in (0, 1))
        if len(narrow) != 2 or len(rows) != 2 or narrow != (rows[1], width):
            raise SourceError(f"{stored.folder}: {name} is {narrow} and {rows}, which do not fit")
        found.append((rows[1], rows[0]))
    return found


def _columns(builder: ModelBuilder, value: str, start: int, end: int) -> str:
    bounds = [
        builder.constant(f"{value}.{what}.{start}", np.array([at], np.int64))
        for what, at in (("from", start), ("to", end), ("axis", -1))
    ]
    return builder.node("Slice", value, *bounds)
