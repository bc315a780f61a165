"""ONNX Runtime behind one small class: load a graph, describe it, run it.

It loads from a path such as "/proc/self/fd/7" (a sealed memory file); the pre-parser
has refused external data, and the sandbox has no file to read anyway. It registers no
custom operators and takes the CPU provider alone.

Settings: all graph optimizations; threads do not spin while they wait, because
workers and the front share few cores; runs are sequential inside one graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from runtime.engine.errors import EngineError, LoadError
from runtime.engine.tensors import Array, TensorSpec

_FATAL = 4

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class RunError(EngineError):
    """The graph could not be run on these inputs; the runtime's own words are withheld."""


class OnnxSession:
    """A loaded graph. `run` may be called from one thread at a time."""

    def __init__(self, path: str, threads: int) -> None:
        """Load the graph; raises LoadError."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        # Its log can quote what a graph holds; failures are exceptions.
        options.log_severity_level = _FATAL
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        # The binding's exceptions share no base class of their own.
        except Exception as error:
            raise LoadError(f"ONNX Runtime refused the graph ({type(error).__name__})") from error
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())

    @property
    def batchable(self) -> bool:
        """Whether every input and output has the same free first dimension."""
        names = {spec.batch for spec in (*self.inputs, *self.outputs)}
        return len(names) == 1 and "" not in names

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run the graph; arrays in the order of `outputs`; raises RunError."""
        try:
            results = self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            raise RunError(f"the graph failed ({type(error).__name__})") from error
        return [np.asarray(result) for result in results]


def _spec(value: object) -> TensorSpec:
    kind = str(getattr(value, "type", ""))
    datatype = _DATATYPES.get(kind)
    name = str(getattr(value, "name", ""))
    if datatype is None:
        raise LoadError(f"the graph's {name!r} has type {kind}, which cannot be served")
    dimensions = list(getattr(value, "shape", []) or [])
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in dimensions)
    free_first = bool(dimensions) and isinstance(dimensions[0], str)
    return TensorSpec(name, datatype, shape, dimensions[0] if free_first else "")
