"""Job: what the inputs of each weight matrix look like on calibration tokens.

llama.cpp hands each computed matrix product to `cb_eval`; its right-hand side holds the
layer's inputs. For every matrix the mean square of each input column is kept, and for
those that are asked for, the whole matrix of second moments. In a model whose embedding
doubles as the output layer, products with the embedding are the output layer's.

The fields of ggml's tensor struct are read at the offsets of the pinned version; the
struct is checked against ggml's own getters before its pointers are followed.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from compiler.errors import ChildError
from compiler.llama.importance_file import write_importance
from compiler.llama.jobs import ggml
from compiler.llama.jobs.session import Session, SessionConfig
from compiler.llama.plan import EMBEDDING, OUTPUT
from compiler.progress import Progress

_ROWS = 128
_F32 = 0
_MAX_OPERATIONS = 256


class _Tensor(ctypes.Structure):
    """struct ggml_tensor of the pinned llama.cpp (ggml.h)."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


def _read(address: int) -> _Tensor:
    tensor = _Tensor.from_address(address)
    if tensor.name != ggml.library().ggml_get_name(address):
        raise ChildError("this llama.cpp lays out its tensors in another way than expected")
    return tensor


def _product() -> int:
    for number in range(_MAX_OPERATIONS):
        if ggml.library().ggml_op_name(number) == b"MUL_MAT":
            return number
    raise ChildError("this llama.cpp has no operation MUL_MAT")


class Collector:
    """Sums squares and outer products of the inputs that it is shown."""

    def __init__(self, moments: tuple[str, ...], max_columns: int) -> None:
        self._patterns = [re.compile(pattern) for pattern in moments]
        self._max_columns = max_columns
        self._operation = _product()
        self.squares: dict[str, NDArray[np.float64]] = {}
        self.moments: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}
        self.failure: Exception | None = None
        kind = llama_cpp.llama_cpp.ggml_backend_sched_eval_callback
        self.callback = kind(self._call)

    def _call(self, address: int, ask: bool, _user_data: Any) -> bool:
        # An exception cannot pass through C: it is kept and ends the computation.
        try:
            tensor = _read(address)
            if tensor.op != self._operation:
                return not ask
            name = _read(tensor.src[0]).name.decode()
            if not name.endswith(".weight"):
                return not ask
            if not ask:
                self._add(OUTPUT if name == EMBEDDING else name, tensor.src[1])
        except Exception as error:
            self.failure = error
            return False
        return True

    def _add(self, name: str, address: int) -> None:
        tensor = _read(address)
        columns = tensor.ne[0]
        size = ggml.library().ggml_nbytes(address)
        if tensor.type != _F32 or size != 4 * columns * tensor.ne[1] * tensor.ne[2] * tensor.ne[3]:
            raise ChildError(f"the input of {name} is no plain matrix of float32")
        buffer = (ctypes.c_float * (size // 4)).from_address(tensor.data)
        rows = np.ctypeslib.as_array(buffer).reshape(-1, columns)
        if not np.isfinite(rows).all():
            raise ChildError(f"the input of {name} is not finite on this text")
        squares = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        self.squares[name] = self.squares.get(name, 0) + squares
        self.counts[name] = self.counts.get(name, 0) + len(rows)
        wanted = any(pattern.fullmatch(name) for pattern in self._patterns)
        if wanted and columns <= self._max_columns:
            self.moments[name] = self.moments.get(name, 0) + (rows.T @ rows).astype(np.float64)


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write an importance file; return how many tokens and tensors it speaks of."""
    tokens, window = arguments["tokens"], arguments["window"]
    collector = Collector(tuple(arguments["moments"]), arguments["max_columns"])
    config = SessionConfig(
        context_tokens=window, batch_tokens=_ROWS, rows=_ROWS, threads=arguments["threads"]
    )
    windows = len(tokens) // window
    with Session(arguments["gguf"], config, collector.callback) as session:
        first = session.first_token()
        for number in range(windows):
            progress("gathering the importance matrix", number / windows)
            piece = list(tokens[number * window : (number + 1) * window])
            piece[0] = piece[0] if first is None else first
            session.clear()
            for start in range(0, window, _ROWS):
                session.prefill(piece[start : start + _ROWS], start, wanted=True)
                if collector.failure is not None:
                    raise collector.failure
    _write(Path(arguments["out"]), collector)
    return {"tokens": windows * window, "tensors": len(collector.squares)}


def _write(out: Path, collector: Collector) -> None:
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, squares in collector.squares.items():
        arrays[f"{name}/squares"] = (squares / collector.counts[name]).astype(np.float32)
    for name, moments in collector.moments.items():
        arrays[f"{name}/moments"] = (moments / collector.counts[name]).astype(np.float32)
    write_importance(out, arrays)
