"""The weights of a model folder: found and measured by their headers, never loaded here.

What it refuses, by name: pickled weights where no safetensors lie beside them (nothing is
ever unpickled); a safetensors file that is cut short or whose header does not describe it;
an index that names a file that is not there, or one outside the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from compiler.errors import SourceError
from compiler.files import Settings, pickle_hint

INDEX_FILE: Final = "model.safetensors.index.json"
_ONE_FILE: Final = "model.safetensors"
_MAX_HEADER_BYTES: Final = 64 << 20
_LENGTH_BYTES: Final = 8


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's weights, each checked to be whole.

    Raises:
        SourceError: there are none, only pickled ones, or one is cut short.
    """
    if (folder / INDEX_FILE).is_file():
        names = _indexed(folder)
    elif (folder / _ONE_FILE).is_file():
        names = (_ONE_FILE,)
    else:
        raise SourceError(f"{folder}: has no {_ONE_FILE}{pickle_hint(folder)}")
    for name in names:
        check_safetensors(folder / name)
    return names


def _indexed(folder: Path) -> tuple[str, ...]:
    index = Settings(folder / INDEX_FILE)
    table = index.raw("weight_map")
    if not isinstance(table, dict) or not table:
        raise SourceError(f"{index.path}: has no weight_map")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise SourceError(f"{index.path}: names a file that is no safetensors file beside it")
        if not (folder / name).is_file():
            raise SourceError(f"{index.path}: names {name}, which is not there")
    return tuple(names)


def check_safetensors(path: Path) -> None:
    """Require that a file is as long as its header says.

    Raises:
        SourceError: cut short, longer than described, or no safetensors file at all.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
                raise SourceError(f"{path}: is cut short, or is no safetensors file")
            header = json.loads(file.read(length))
        ends = [e["data_offsets"][1] for name, e in header.items() if name != "__metadata__"]
        described = _LENGTH_BYTES + length + max(ends, default=0)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"{path}: is no safetensors file that can be read") from error
    if described != size:
        cut = "is cut short" if size < described else "is longer than its header says"
        raise SourceError(f"{path}: {cut}: {size:,} bytes instead of {described:,}")
