"""Job: the error that a format makes in each matrix, weighted by its inputs' importance.

The figure is sum(s_j (w - q)^2) / sum(s_j w^2) with s_j the mean square of input j: the share
of the layer's output energy that rounding disturbs, were the inputs independent. Only some
rows of each matrix are tried, evenly spread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compiler.llama.gguf_file import GgufFile, Tensor, open_gguf
from compiler.llama.importance_file import read_importance
from compiler.llama.jobs import ggml
from compiler.llama.plan import EMBEDDING, OUTPUT, is_tied
from compiler.progress import Progress


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return {"errors": {name: figure}} for the tensors and formats in arguments["types"]."""
    importance = read_importance(Path(arguments["imatrix"]))
    errors: dict[str, float] = {}
    with open_gguf(Path(arguments["gguf"])) as file:
        tied = is_tied(file.tensors)
        names = arguments["types"]
        for number, (name, kind) in enumerate(names.items()):
            progress(f"trying {kind} for {name}", number / len(names))
            used_as = OUTPUT if tied and name == EMBEDDING else name
            squares = importance.squares.get(used_as)
            tensor = file.tensor(name)
            weights = np.ones(tensor.columns, np.float32) if squares is None else squares
            errors[name] = _error(file, tensor, kind, weights, arguments["rows"])
    return {"errors": errors}


def _error(file: GgufFile, tensor: Tensor, kind: str, weights: ggml.Floats, rows: int) -> float:
    disturbed = energy = 0.0
    step = max(1, tensor.rows // rows)
    for first in range(0, tensor.rows, step * 64):
        # 64 rows in a run, then a gap.
        end = min(first + 64, tensor.rows)
        data = file.rows(tensor, first, end)
        exact = ggml.dequantize(tensor.type, data, tensor.columns)
        rounded = ggml.dequantize(kind, ggml.quantize(kind, exact, weights), tensor.columns)
        disturbed += float((np.square(exact - rounded) * weights).sum(dtype=np.float64))
        energy += float((np.square(exact) * weights).sum(dtype=np.float64))
    return disturbed / energy if energy else 0.0
