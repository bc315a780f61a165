"""The file of an importance matrix: named float32 arrays behind one line of JSON.

The first line is {"format": "casemate-importance-1", "arrays": [[name, shape], ...]} in
ASCII, names sorted; the arrays follow, little-endian float32, in that order. An array is
`<tensor>/squares`, the mean square of each input column, or `<tensor>/moments`, the mean of
x xT over the inputs. No clock, no path and no text is in it: equal input, equal bytes.

Reading refuses another format, counts and sizes that do not fit the file, negative or
non-finite values.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import QuantizationError

FORMAT: Final = "casemate-importance-1"
_MAX_HEADER_BYTES = 1 << 22
_MAX_COLUMNS = 1 << 20
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Importance:
    """What calibration showed of the inputs of each matrix.

    Attributes:
        squares: tensor name to float32[columns], the mean square of each input.
        moments: tensor name to float32[columns, columns], where they were gathered.
    """

    squares: Mapping[str, Floats]
    moments: Mapping[str, Floats]


def write_importance(out: Path, arrays: Mapping[str, Floats]) -> None:
    """Write the arrays; see the module for their names."""
    names = sorted(arrays)
    head = {"format": FORMAT, "arrays": [[name, list(arrays[name].shape)] for name in names]}
    with out.open("wb") as file:
        file.write(json.dumps(head).encode("ascii") + b"\n")
        for name in names:
            file.write(np.ascontiguousarray(arrays[name], "<f4").tobytes())
        file.flush()
        os.fsync(file.fileno())


def read_importance(path: Path) -> Importance:
    """Read an importance file.

    Raises:
        QuantizationError: it is missing or not of this format; says what is wrong.
    """
    try:
        if not path.is_file():
            raise QuantizationError(f"{path}: there is no such file")
        with path.open("rb") as file:
            entries = _header(path, file.readline(_MAX_HEADER_BYTES))
            total = sum(math.prod(shape) for _, shape in entries) * 4
            if path.stat().st_size - file.tell() != total:
                raise QuantizationError(f"{path}: is cut short or has something behind its end")
            arrays = {
                name: np.fromfile(file, "<f4", math.prod(shape)).reshape(shape)
                for name, shape in entries
            }
    except OSError as error:
        raise QuantizationError(f"{path}: cannot be read: {error.strerror}") from error
    for name, array in arrays.items():
        squares = array if array.ndim == 1 else np.diagonal(array)
        if not np.isfinite(array).all() or (squares < 0).any():
            raise QuantizationError(f"{path}: {name} is not finite, or a square is negative")
    parts = {"squares": {}, "moments": {}}  # type: dict[str, dict[str, Floats]]
    for name, array in arrays.items():
        tensor, _, part = name.rpartition("/")
        parts[part][tensor] = array
    return Importance(parts["squares"], parts["moments"])


def _header(path: Path, line: bytes) -> list[tuple[str, tuple[int, ...]]]:
    wrong = QuantizationError(f"{path}: is no importance matrix of the format {FORMAT}")
    try:
        head = json.loads(line)
        entries = [(str(name), tuple(shape)) for name, shape in head["arrays"]]
        known = head["format"] == FORMAT
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise wrong from error
    for name, shape in entries:
        part = name.rpartition("/")[2]
        rank = {"squares": 1, "moments": 2}.get(part)
        sizes = all(type(size) is int and 0 < size <= _MAX_COLUMNS for size in shape)
        if len(shape) != rank or not sizes or len(set(shape)) != 1:
            raise wrong
    if not known or len({name for name, _ in entries}) != len(entries):
        raise wrong
    return entries
