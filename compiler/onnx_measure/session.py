"""Open a graph in ONNX Runtime the one way that measuring and checking do.

One thread unless asked, no spinning (several processes share few cores here), CPU only.
Only the inputs that the graph declares are given to it, so texts with token types fit
graphs without.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import QuantizationError
from compiler.onnx_file import write_model
from compiler.onnx_measure.result import Feeds

_log = logging.getLogger(__name__)
# The runtime has no type for it.
_NO_MEMORY: Final = ("Failed to allocate memory", "bad_alloc", "bad allocation")


def open_session(model: Path | bytes, threads: int = 1, *, optimize: bool = True) -> Any:
    """Return an `onnxruntime.InferenceSession`.

    Args:
        model: a file, or its content.
        threads: of one operator.
        optimize: whether the runtime may rewrite the graph when it loads it.

    Raises:
        QuantizationError: the runtime cannot run the graph.
        MemoryError: there is not the memory to load it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    what = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(what, options, providers=["CPUExecutionProvider"])
    # The runtime's exceptions share no narrower base.
    except Exception as error:
        _check_memory(error)
        name = "the graph" if isinstance(model, bytes) else str(model)
        reason = str(error).splitlines()[0][:300]
        raise QuantizationError(f"{name} cannot be run by ONNX Runtime: {reason}") from error


def open_model(model: Any) -> Any:
    """Return a session of an `onnx.ModelProto`, by way of a file.

    From a file the runtime needs one copy of the weights less than from bytes.

    Raises:
        QuantizationError: the runtime cannot run the graph.
    """
    with tempfile.TemporaryDirectory(prefix="casemate-session-") as folder:
        path = Path(folder) / "model.onnx"
        write_model(path, model)
        return open_session(path)


def run_session(
    session: Any, feeds: Feeds, names: Sequence[str] | None = None
) -> list[NDArray[np.generic]]:
    """Return the outputs of one run; inputs that the graph does not have are left out.

    Raises:
        QuantizationError: an input is missing, or the graph fails on the inputs; the
            message speaks of names and shapes only.
        MemoryError: there is not the memory to run it on them.
    """
    wanted = [value.name for value in session.get_inputs()]
    missing = [name for name in wanted if name not in feeds]
    if missing:
        raise QuantizationError(f"the graph needs the inputs {', '.join(missing)}")
    given = {name: feeds[name] for name in wanted}
    try:
        outputs: list[NDArray[np.generic]] = session.run(names, given)
    except Exception as error:
        _check_memory(error)
        # The runtime's own message may quote values.
        _log.debug("onnxruntime: %s", type(error).__name__)
        shapes = ", ".join(f"{name} {array.dtype}{array.shape}" for name, array in given.items())
        raise QuantizationError(f"the graph cannot take the inputs {shapes}") from error
    return outputs


def _check_memory(error: Exception) -> None:
    if any(words in str(error) for words in _NO_MEMORY):
        raise MemoryError from error
