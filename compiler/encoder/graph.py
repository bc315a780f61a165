"""A small builder for ONNX graphs: named constants, nodes that return their output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from casemate import __version__
from compiler.encoder.names import ATTENTION_MASK, INPUT_IDS

OPSET = 17
# Version 8 is what opset 17 came with; older runtimes read it.
IR_VERSION = 8


class GraphBuilder:
    """Collects nodes and constants; names of values are made unique by a counter."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant tensor and return its name."""
        full = self._prefix + name
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), full))
        return full

    def node(
        self,
        operator: str,
        *inputs: str,
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node with one output and return the output's name."""
        result = output or f"{self._prefix}{operator}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs), [result], name=result, **attributes)
        )
        return result

    def encoder_model(self, output: str, width: int) -> ModelProto:
        """Return the model with an encoder's interface and `output` FP32 [batch, width].

        It takes the constants; the builder has none afterwards.
        """
        shape = ["batch", "sequence"]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in (INPUT_IDS, ATTENTION_MASK)
        ]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])]
        model = helper.make_model(
            helper.make_graph(self.nodes, "encoder", inputs, outputs),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="casemate",
            producer_version=__version__,
        )
        # One after the other, so that never all are there twice.
        self.constants.reverse()
        while self.constants:
            model.graph.initializer.append(self.constants.pop())
        return model
