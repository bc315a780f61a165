"""The graph of the trainer's recurrent networks: ONNX's LSTM and GRU, one node a layer.

A language model gives `logits` for every token (log-probabilities under an adaptive
softmax); a classifier reads the last real token's state or the mean over real tokens.
The number of real tokens of each text is given to the layers as `sequence_lens`: padding
is on the right, and no state is computed for it.

Sources: Hochreiter and Schmidhuber 1997 (LSTM); Cho et al. 2014 (GRU), with the reset gate
after the matrix product, as torch has it. ONNX orders gates otherwise than torch does:
input, output, forget, cell; update, reset, hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from compiler.encoder.names import ATTENTION_MASK, INPUT_IDS, LOGITS
from compiler.errors import SourceError
from compiler.files import Settings
from compiler.onnx_export.adaptive import add_adaptive_softmax
from compiler.onnx_export.added import add_dense_layers, last_token
from compiler.onnx_export.graph import BATCH, SEQUENCE, ModelBuilder
from compiler.onnx_export.source import ModelFolder
from compiler.onnx_file import Weight

_MAX_SIZE: Final = 1 << 24
_MAX_LAYERS: Final = 256
_LEAST_COUNT: Final = 1e-9


@dataclass(frozen=True, slots=True)
class _Cell:
    """A kind of layer: ONNX's operator, and torch's gates in its order."""

    operator: str
    gates: tuple[int, ...]
    attributes: dict[str, Any]


_CELLS: Final = {
    "lstm": _Cell("LSTM", (0, 3, 1, 2), {}),
    "gru": _Cell("GRU", (1, 0, 2), {"linear_before_reset": 1}),
}


@dataclass(frozen=True, slots=True)
class _Sizes:
    vocabulary: int
    width: int
    layers: int
    cell: _Cell
    added: int
    pooling: str
    adaptive: bool


def recurrent_graph(source: ModelFolder, opset: int) -> tuple[ModelProto, list[Weight]]:
    """Return the model of a recurrent network, and the weights that it uses.

    Raises:
        SourceError: a configuration or weights that are not of such a network.
    """
    sizes = _sizes(source)
    builder = ModelBuilder(source.weights)
    states = _layers(builder, sizes)
    if sizes.pooling == "last":
        states = last_token(builder, states)
    elif sizes.pooling == "mean":
        states = _mean(builder, states)
    states = add_dense_layers(builder, states, "added", sizes.added, sizes.width)
    classes = len(source.labels) or sizes.vocabulary
    if sizes.adaptive:
        scores = add_adaptive_softmax(builder, source.weights, states, sizes.width, classes)
    else:
        scores = _output(builder, states, classes, sizes.width)
    builder.node("Identity", scores, output=LOGITS)
    shape: list[str | int] = [BATCH] if source.labels else [BATCH, SEQUENCE]
    return builder.text_model(LOGITS, [*shape, classes], opset), list(builder.weights.values())


def _sizes(source: ModelFolder) -> _Sizes:
    settings = Settings(source.path)
    cell, pooling = settings.get("cell", str), settings.get("pooling", str)
    if cell not in _CELLS:
        raise SourceError(f"{source.path}: cell is {cell[:50]!a}; known: {', '.join(_CELLS)}")
    if pooling not in ("none", "last", "mean"):
        raise SourceError(f"{source.path}: pooling is {pooling[:50]!a}; known: none, last, mean")
    return _Sizes(
        vocabulary=size(settings, "vocab_size"),
        width=size(settings, "hidden_size"),
        layers=size(settings, "num_hidden_layers", _MAX_LAYERS),
        cell=_CELLS[cell],
        added=settings.get("added_task_layers", int, 0),
        pooling=pooling,
        adaptive=settings.raw("cutoffs") is not None,
    )


def size(settings: Settings, name: str, limit: int = _MAX_SIZE) -> int:
    """Return a count of at least 1.

    Raises:
        SourceError: it is none.
    """
    value = settings.get(name, int)
    if not 1 <= value <= limit:
        raise SourceError(f"{settings.path}: {name} must be from 1 to {limit}")
    return value


def _layers(builder: ModelBuilder, sizes: _Sizes) -> str:
    """Add the table and the layers; return the states, FP32 [batch, sequence, width]."""
    table = builder.stored("embedding.weight", (sizes.vocabulary, sizes.width))
    vectors = builder.node("Gather", table, INPUT_IDS, axis=0)
    real = builder.node("Cast", ATTENTION_MASK, to=TensorProto.INT32)
    axis = builder.constant("sequence_axis", np.array([1]))
    lengths = builder.node("ReduceSum", real, axis, keepdims=0)
    # These operators want the sequence first, and have an axis for directions.
    states = builder.node("Transpose", vectors, perm=[1, 0, 2])
    for index in range(sizes.layers):
        gates = [_gates(builder, sizes, f"layers.{index}", kind) for kind in ("ih", "hh")]
        states = builder.node(
            sizes.cell.operator,
            states,
            *gates,
            _biases(builder, sizes, f"layers.{index}"),
            lengths,
            hidden_size=sizes.width,
            **sizes.cell.attributes,
        )
        states = builder.node("Squeeze", states, axis)
    return builder.node("Transpose", states, perm=[1, 0, 2])


def _gates(builder: ModelBuilder, sizes: _Sizes, layer: str, kind: str) -> str:
    """Add a layer's matrix in ONNX's order of gates, [1, gates * width, width]."""
    rows = len(sizes.cell.gates) * sizes.width

    def change(array: NDArray[Any]) -> NDArray[Any]:
        return _ordered(array, sizes.cell)[None]

    name = f"{layer}.weight_{kind}_l0"
    return builder.stored(name, (rows, sizes.width), change, (1, rows, sizes.width))


def _biases(builder: ModelBuilder, sizes: _Sizes, layer: str) -> str:
    """Add both biases of a layer as one value, [1, 2 * gates * width]."""
    rows = len(sizes.cell.gates) * sizes.width

    def change(array: NDArray[Any]) -> NDArray[Any]:
        return _ordered(array, sizes.cell)[None]

    halves = [
        builder.stored(f"{layer}.bias_{kind}_l0", (rows,), change, (1, rows))
        for kind in ("ih", "hh")
    ]
    return builder.node("Concat", *halves, axis=1)


def _ordered(array: NDArray[Any], cell: _Cell) -> NDArray[Any]:
    blocks = np.split(array, len(cell.gates))
    return np.concatenate([blocks[gate] for gate in cell.gates])


def _output(builder: ModelBuilder, states: str, classes: int, width: int) -> str:
    """Add the linear output layer; a tied one multiplies with the table."""
    tied = not builder.has("head.weight")
    if tied:
        matrix = builder.node("Transpose", "embedding.weight", perm=[1, 0])
    else:
        matrix = builder.transposed("head.weight", classes, width)
    return builder.node(
        "Add", builder.node("MatMul", states, matrix), builder.stored("head.bias", (classes,))
    )


def _mean(builder: ModelBuilder, states: str) -> str:
    """Average the states of real tokens: [B, T, D] to [B, D]."""
    mask = builder.node("Cast", ATTENTION_MASK, to=TensorProto.FLOAT)
    column = builder.node("Unsqueeze", mask, builder.constant("mean.width", np.array([2])))
    axis = builder.constant("mean.axis", np.array([1]))
    total = builder.node("ReduceSum", builder.node("Mul", states, column), axis, keepdims=0)
    count = builder.node("ReduceSum", mask, axis, keepdims=1)
    least = builder.constant("mean.least", np.array(_LEAST_COUNT, np.float32))
    return builder.node("Div", total, builder.node("Max", count, least))
