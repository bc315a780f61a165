"""Job: `llama_model_quantize` with one of llama.cpp's mixes.

Tensors that the plan names get their format by an exact name; llama.cpp decides the rest.
The compiler's own rounding is not at work here.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any, Final

from llama_cpp import llama_cpp as c_api

from compiler.errors import ChildError
from compiler.llama.importance_file import read_importance
from compiler.llama.jobs.memory import peak_bytes
from compiler.llama.jobs.session import quiet
from compiler.llama.plan import EMBEDDING, OUTPUT, TYPE_NUMBERS
from compiler.progress import Progress

_ROOM_BYTES: Final = 4 << 20


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write arguments["out"]."""
    quiet()
    progress("quantizing with llama.cpp", 0.0)
    params = c_api.llama_model_quantize_default_params()
    params.nthread = arguments["threads"]
    params.ftype = arguments["ftype"]
    params.allow_requantize = True
    types = dict(arguments["types"])
    if OUTPUT in types:
        params.output_tensor_type = TYPE_NUMBERS[types.pop(OUTPUT)]
    if EMBEDDING in types:
        params.token_embedding_type = TYPE_NUMBERS[types.pop(EMBEDDING)]
    overrides = (c_api.llama_model_tensor_override * (len(types) + 1))()
    for slot, (name, kind) in zip(overrides, types.items(), strict=False):
        slot.pattern = f"^{re.escape(name)}$".encode()
        slot.type = TYPE_NUMBERS[kind]
    params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
    if arguments["imatrix"] is not None:
        squares = read_importance(Path(arguments["imatrix"])).squares
        named = [*squares.items()]
        named += [(EMBEDDING, squares[OUTPUT])] if OUTPUT in squares else []
        entries = (c_api.llama_model_imatrix_data * (len(named) + 1))()
        for entry, (name, array) in zip(entries, named, strict=False):
            entry.name = name.encode()
            entry.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = array.size
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    status = c_api.llama_model_quantize(
        arguments["source"].encode(), arguments["out"].encode(), ctypes.byref(params)
    )
    if status != 0:
        _require_room(Path(arguments["out"]))
        raise ChildError("llama.cpp could not make the file of this model")
    peak = peak_bytes()
    return {"rounding": {}, "peak_memory_bytes": peak}


def _require_room(out: Path) -> None:
    """Find out why a file could not be written: llama.cpp does not say.

    Raises:
        OSError: no more can be written there.
    """
    with out.open("ab") as file:
        file.write(bytes(_ROOM_BYTES))
        file.flush()
        os.fsync(file.fileno())
