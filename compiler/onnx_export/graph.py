"""The graph of a model that is built here, apart from its weights.

`compiler.encoder.graph` holds constants in the graph; this builder only names weights,
which `writing` then copies from file to file. Small constants are held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from casemate import __version__
from compiler.encoder.graph import GraphBuilder
from compiler.encoder.names import ATTENTION_MASK, INPUT_IDS
from compiler.onnx_file import Weight
from compiler.weights.reading import Weights

# The least that optimum's configurations were written for; its IR version is 8.
OPSET: Final = 18
OPSETS: Final = (18, 19, 20)
BATCH, SEQUENCE = "batch", "sequence"


class ModelBuilder(GraphBuilder):
    """Collects nodes, small constants, and the names of weights."""

    def __init__(self, stored: Weights, prefix: str = "") -> None:
        super().__init__(prefix)
        self._stored = stored
        self.weights: dict[str, Weight] = {}

    def stored(
        self,
        name: str,
        shape: tuple[int, ...],
        change: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        changed: tuple[int, ...] | None = None,
        value: str | None = None,
    ) -> str:
        """Add a stored tensor and return the name of its value.

        Args:
            name: of the tensor in the files.
            shape: that it must have there.
            change: makes of it what the graph needs.
            changed: the shape after that.
            value: its name in the graph, if not `name`.

        Raises:
            SourceError: it is missing, or of another shape.
        """
        label = value or name
        if label not in self.weights:
            found = self._stored.tensor(name).shape
            if found != shape:
                self._stored.read(name, shape)

            def read() -> NDArray[Any]:
                array = self._stored.read(name, shape)
                return array if change is None else change(array)

            self.weights[label] = Weight(label, changed or shape, read)
        return label

    def transposed(self, name: str, rows: int, columns: int) -> str:
        """Add a matrix that is stored as [rows, columns] as [columns, rows]."""
        return self.stored(name, (rows, columns), np.transpose, (columns, rows), f"{name}.T")

    def linear(self, value: str, name: str, outputs: int, inputs: int, *, bias: bool) -> str:
        """Multiply [..., inputs] with the stored matrix [outputs, inputs]; add its bias."""
        product = self.node("MatMul", value, self.transposed(f"{name}.weight", outputs, inputs))
        if not bias:
            return product
        return self.node("Add", product, self.stored(f"{name}.bias", (outputs,)))

    def has(self, name: str) -> bool:
        """Whether the files hold a tensor."""
        return name in self._stored.tensors

    def text_model(self, output: str, shape: list[str | int], opset: int) -> ModelProto:
        """Return the model of token ids and their mask, without its weights."""
        ids = [
            helper.make_tensor_value_info(name, TensorProto.INT64, [BATCH, SEQUENCE])
            for name in (INPUT_IDS, ATTENTION_MASK)
        ]
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        return make_model(self.nodes, ids, [result], self.constants, opset)


def make_model(
    nodes: list[Any],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    constants: list[TensorProto],
    opset: int,
) -> ModelProto:
    """Return a model of this project, of a pinned opset and IR version."""
    graph = helper.make_graph(nodes, "model", inputs, outputs, constants)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=helper.find_min_ir_version_for(imports),
        producer_name="casemate",
        producer_version=__version__,
    )
