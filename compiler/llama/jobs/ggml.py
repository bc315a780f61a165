"""ggml's own codecs: rows of floats to blocks of a format and back.

Any format of ggml's for one tensor, with or without an importance matrix, on this
thread. Rows that are no whole number of blocks are refused before ggml sees them.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from compiler.errors import QuantizationError
from compiler.llama.plan import TYPE_NUMBERS
from security.preparse.gguf_types import TENSOR_TYPES

Floats = NDArray[np.float32]
_FLOAT_P = ctypes.POINTER(ctypes.c_float)


@cache
def library() -> ctypes.CDLL:
    """Return libggml-base as llama-cpp-python loaded it, with the types it needs."""
    path = Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
    lib = ctypes.CDLL(str(path))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        _FLOAT_P,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        _FLOAT_P,
    ]
    lib.ggml_get_name.restype = ctypes.c_char_p
    lib.ggml_get_name.argtypes = [ctypes.c_void_p]
    lib.ggml_nbytes.restype = ctypes.c_size_t
    lib.ggml_nbytes.argtypes = [ctypes.c_void_p]
    lib.ggml_op_name.restype = ctypes.c_char_p
    lib.ggml_op_name.argtypes = [ctypes.c_int]
    return lib


def quantize(kind: str, rows: Floats, importance: Floats | None = None) -> NDArray[np.uint8]:
    """Encode float32[rows, columns] as uint8[rows, bytes of a row].

    Args:
        importance: float32[columns], non-negative weights of squared errors, or None.

    Raises:
        QuantizationError: a row is no whole number of blocks.
    """
    count, columns = rows.shape
    block = TENSOR_TYPES[TYPE_NUMBERS[kind]]
    if kind == "F32":
        return np.ascontiguousarray(rows).view(np.uint8)
    if kind == "F16":
        return rows.astype(np.float16).view(np.uint8)
    if columns % block.block_elements:
        # ggml would write whole blocks, past the end of the buffer.
        raise QuantizationError(
            f"rows of {columns} are no whole blocks of {kind}, which has {block.block_elements}"
        )
    out = np.empty((count, columns // block.block_elements * block.block_bytes), np.uint8)
    rows = np.ascontiguousarray(rows, np.float32)
    pointer = None
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        pointer = importance.ctypes.data_as(_FLOAT_P)
    number = TYPE_NUMBERS[kind]
    source = rows.ctypes.data_as(_FLOAT_P)
    library().ggml_quantize_chunk(number, source, out.ctypes.data, 0, count, columns, pointer)
    return out


def dequantize(kind: str, data: memoryview | NDArray[np.uint8], columns: int) -> Floats:
    """Decode the bytes of whole rows to float32[rows, columns]."""
    raw = np.frombuffer(data, np.uint8)
    if kind == "F32":
        return raw.view(np.float32).reshape(-1, columns)
    if kind == "F16":
        return raw.view(np.float16).astype(np.float32).reshape(-1, columns)
    if kind == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(-1, columns)
    block = TENSOR_TYPES[TYPE_NUMBERS[kind]]
    elements = raw.size // block.block_bytes * block.block_elements
    out = np.empty((elements // columns, columns), np.float32)
    name = kind if kind.endswith("_K") else kind.lower()
    name = name[0].lower() + name[1:]
    decode = getattr(library(), f"dequantize_row_{name}")
    decode.restype = None
    decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    decode(raw.ctypes.data, out.ctypes.data, elements)
    return out
