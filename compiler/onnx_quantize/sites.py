"""Find where a graph multiplies by, or looks up in, a constant matrix.

A site is one MatMul, Gemm or Gather of the main graph whose matrix is a float32 initializer
that no caller can override, directly or through a Transpose (a tied output layer). Small
matrices are no sites: what they cost is not worth an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compiler.passes.graph import constants, swaps_axes, uses

_LEAST_ELEMENTS = 4096
MATMUL, GATHER = "matmul", "gather"


@dataclass(frozen=True, slots=True)
class Site:
    """One use of a constant matrix.

    Attributes:
        kind: "matmul" or "gather".
        tensor: name of the initializer.
        node: position of the node that uses it.
        activation: what is multiplied, or the indices that are looked up.
        output: what the site computes, bias included.
        transposed: whether the initializer is [columns, rows], so its transpose multiplies.
        bias: name of a constant [columns] that is added, or None.
        bias_node: position of the Add that does so and goes away with the site, or None.
    """

    kind: str
    tensor: str
    node: int
    activation: str
    output: str
    transposed: bool = False
    bias: str | None = None
    bias_node: int | None = None


def find_sites(model: ModelProto) -> list[Site]:
    """Return the sites of the main graph in the order of its nodes."""
    return _Finder(model.graph).find()


def matrix(model: ModelProto, site: Site) -> NDArray[np.float32]:
    """Return the site's matrix as it multiplies: FP32 [summed, columns]; a table as it is."""
    array = numpy_helper.to_array(constants(model.graph)[site.tensor])
    return np.ascontiguousarray(array.T if site.transposed else array)


class _Finder:
    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._constants = constants(graph)
        self._uses = uses(graph)
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._users: dict[str, list[int]] = {}
        for index, node in enumerate(graph.node):
            for name in node.input:
                self._users.setdefault(name, []).append(index)

    def find(self) -> list[Site]:
        sites = []
        for index, node in enumerate(self._graph.node):
            if node.domain in ("", "ai.onnx"):
                site = self._site(index, node)
                if site is not None:
                    sites.append(site)
        return sites

    def _site(self, index: int, node: NodeProto) -> Site | None:
        if node.op_type == "Gather":
            if _attribute(node, "axis", 0) != 0 or not self._is_matrix(node.input[0]):
                return None
            return Site(GATHER, node.input[0], index, node.input[1], node.output[0])
        if node.op_type not in ("MatMul", "Gemm"):
            return None
        found = self._matrix_of(node.input[1])
        if found is None or node.input[0] in self._constants:
            return None
        tensor, transposed = found
        if node.op_type == "Gemm":
            return self._gemm(index, node, tensor, transposed)
        columns = self._constants[tensor].dims[0 if transposed else 1]
        bias, at = self._added(node.output[0], columns)
        output = node.output[0] if at is None else self._graph.node[at].output[0]
        return Site(MATMUL, tensor, index, node.input[0], output, transposed, bias, at)

    def _gemm(self, index: int, node: NodeProto, tensor: str, transposed: bool) -> Site | None:
        transposed ^= bool(_attribute(node, "transB", 0))
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        plain = _attribute(node, "alpha", 1.0) == 1.0 and not _attribute(node, "transA", 0)
        if not plain or (bias is not None and _attribute(node, "beta", 1.0) != 1.0):
            return None
        columns = self._constants[tensor].dims[0 if transposed else 1]
        if bias is not None and not self._is_bias(bias, columns):
            return None
        return Site(MATMUL, tensor, index, node.input[0], node.output[0], transposed, bias)

    def _matrix_of(self, name: str) -> tuple[str, bool] | None:
        if self._is_matrix(name):
            return name, False
        maker = self._makers.get(name)
        if maker is None or not swaps_axes(maker) or not self._is_matrix(maker.input[0]):
            return None
        return maker.input[0], True

    def _is_matrix(self, name: str) -> bool:
        tensor = self._constants.get(name)
        return (
            tensor is not None
            and tensor.data_type == TensorProto.FLOAT
            and len(tensor.dims) == 2
            and tensor.dims[0] * tensor.dims[1] >= _LEAST_ELEMENTS
        )

    def _is_bias(self, name: str, columns: int) -> bool:
        tensor = self._constants.get(name)
        return (
            tensor is not None
            and tensor.data_type == TensorProto.FLOAT
            and list(tensor.dims) == [columns]
        )

    def _added(self, output: str, columns: int) -> tuple[str | None, int | None]:
        users = self._users.get(output, [])
        if len(users) != 1 or self._uses[output] != 1:
            return None, None
        node = self._graph.node[users[0]]
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
            return None, None
        bias = node.input[1] if node.input[0] == output else node.input[0]
        return (bias, users[0]) if self._is_bias(bias, columns) else (None, None)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
