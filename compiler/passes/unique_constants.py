"""Initializers that hold the same tensor become one.

Exporters write a shared weight, or the same small number, once for each use. Tensors are
compared by type, shape and a digest of their bytes, so none is kept in memory twice.
"""

from __future__ import annotations

import hashlib

from onnx import ModelProto, TensorProto, numpy_helper

from compiler.passes.base import CONSTANTS_NAMED, FOLDED, UNIQUE_CONSTANTS
from compiler.passes.graph import constants, remove_initializers, rename_uses


class UniqueConstants:
    """Let all uses of equal initializers use the first one."""

    name = "unique-constants"
    needs = frozenset({CONSTANTS_NAMED, FOLDED})
    ensures = frozenset({UNIQUE_CONSTANTS})

    def run(self, model: ModelProto) -> ModelProto:
        """Return the model in which no two initializers of the main graph are equal."""
        graph = model.graph
        outputs = {value.name for value in graph.output}
        first: dict[tuple[object, ...], str] = {}
        same: dict[str, str] = {}
        for name, tensor in constants(graph).items():
            twin = first.setdefault(_key(tensor), name)
            # The name of a graph's output is its caller's.
            if twin != name and name not in outputs:
                same[name] = twin
        if same:
            remove_initializers(graph, same)
            rename_uses(graph, same)
        return model


def _key(tensor: TensorProto) -> tuple[object, ...]:
    shape = (tensor.data_type, tuple(tensor.dims))
    if tensor.HasField("raw_data"):
        return (*shape, hashlib.sha256(tensor.raw_data).digest())
    if tensor.data_type == TensorProto.STRING:
        return (*shape, tuple(tensor.string_data))
    return (*shape, hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest())
