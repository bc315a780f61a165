"""Job: write a GGUF file anew with tensors in other formats, the rest bit for bit.

A slice of rows is decoded to float32, rounded and written before the next is read, so
memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compiler.llama import rounding
from compiler.llama.gguf_file import GgufFile, Tensor, open_gguf, write_gguf
from compiler.llama.importance_file import Importance, read_importance
from compiler.llama.jobs import ggml
from compiler.llama.jobs.memory import peak_bytes
from compiler.llama.plan import EMBEDDING, OUTPUT
from compiler.progress import Progress

_SLICE_ELEMENTS = 1 << 22


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write arguments["out"]; return how each changed tensor was rounded."""
    importance = None
    if arguments["imatrix"] is not None:
        importance = read_importance(Path(arguments["imatrix"]))
    with open_gguf(Path(arguments["source"])) as source:
        job = _Rewriting(source, arguments["types"], arguments["rounding"], importance, progress)
        write_gguf(Path(arguments["out"]), source, job.tensors, job.content)
    peak = peak_bytes()
    return {"rounding": job.used, "peak_memory_bytes": peak}


class _Rewriting:
    def __init__(
        self,
        source: GgufFile,
        types: dict[str, str],
        how: str,
        importance: Importance | None,
        progress: Progress,
    ) -> None:
        self._source, self._how, self._importance = source, how, importance
        self._progress = progress
        self._origin = {tensor.name: tensor for tensor in source.tensors}
        self.tensors = [replace(t, type=types[t.name]) for t in source.tensors]
        if OUTPUT in types and OUTPUT not in self._origin:
            self._origin[OUTPUT] = self._origin[EMBEDDING]
            twin = replace(self._origin[EMBEDDING], name=OUTPUT, type=types[OUTPUT])
            self.tensors.append(twin)
        self._tied = OUTPUT not in types
        self._total = sum(tensor.rows * tensor.columns for tensor in self.tensors)
        self._done = 0
        self.used: dict[str, str] = {}

    def content(self, tensor: Tensor) -> Iterator[memoryview]:
        """Give the bytes of a tensor, slice by slice."""
        origin = self._origin[tensor.name]
        step = max(1, min(rounding.ROWS, _SLICE_ELEMENTS // tensor.columns))
        same = tensor.type == origin.type
        encode = None if same else self._encoder(tensor)
        for first in range(0, tensor.rows, step):
            self._progress(f"writing {tensor.name} as {tensor.type}", self._done / self._total)
            end = min(first + step, tensor.rows)
            data = self._source.rows(origin, first, end)
            self._done += (end - first) * tensor.columns
            if encode is None:
                yield data
            else:
                rows = ggml.dequantize(origin.type, data, origin.columns)
                yield np.ascontiguousarray(encode(rows)).reshape(-1).data

    def _encoder(self, tensor: Tensor) -> Callable[[ggml.Floats], rounding.Codes]:
        kind = tensor.type
        # A tied embedding is rounded for its use as the output layer.
        name = OUTPUT if tensor.name == EMBEDDING and self._tied else tensor.name
        squares = moments = None
        if self._importance is not None and self._how != "plain":
            squares = self._importance.squares.get(name)
            moments = self._importance.moments.get(name)
        if self._how == "feedback" and moments is not None and kind in rounding.GRIDS:
            self.used[tensor.name] = "feedback"
            return rounding.encoder(kind, moments)
        self.used[tensor.name] = "plain" if squares is None else "imatrix"
        return lambda rows: ggml.quantize(kind, rows, squares)
