"""Weights in half precision, computed with in single: half the file, the same speed.

CPUs that this is for have no products in half precision that ONNX Runtime uses, so a graph
of FLOAT16 operators would be cast back and forth at every step. Here only the stored tensor
is FLOAT16, with a Cast behind it that the runtime folds when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compiler.passes.graph import constants, replace_nodes

_LEAST_ELEMENTS = 1024
_LARGEST = float(np.finfo(np.float16).max)
_SUFFIX = "_half_quantized"


def store_half(model: ModelProto, excluded: Collection[str]) -> tuple[list[str], list[str]]:
    """Store float32 initializers in half precision, in place.

    A tensor with a value beyond 65504 stays as it is.

    Returns:
        The names that were stored so, and those of the same size that were not.
    """
    graph = model.graph
    done, kept, casts = [], [], []
    outputs = {value.name for value in graph.output}
    for name, tensor in constants(graph).items():
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _LEAST_ELEMENTS:
            continue
        array = numpy_helper.to_array(tensor)
        if name in excluded or name in outputs or not np.abs(array).max() <= _LARGEST:
            kept.append(name)
            continue
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), name + _SUFFIX))
        casts.append(helper.make_node("Cast", [name + _SUFFIX], [name], name=name + "_cast", to=1))
        done.append(name)
    replace_nodes(graph, [*casts, *graph.node])
    return done, kept
