"""Weights in safetensors files, mapped and never copied whole.

The files are opened once; what is hashed is what is read. Headers come from strangers:
lengths are bounded, the JSON is strict, and every tensor's shape, type and place must
agree with each other and with the length of the file, without a gap or an overlap.

It refuses types that are no plain floating point numbers (the weights are already
quantized), files that end early, pickled weights, an index that names anything but plain
files beside it, and a file that is written to while it is used.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import SourceError
from compiler.files import open_regular, pickle_hint, read_json

WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"

# The format's own limit on a header.
_MAX_HEADER_BYTES: Final = 100_000_000
_MAX_FILES: Final = 1024
_MAX_TENSORS: Final = 100_000
_MAX_DIMENSIONS: Final = 4
_LENGTH_BYTES: Final = 8
_CHUNK_BYTES: Final = 8 << 20
_STORED: Final[Mapping[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in its file.

    Attributes:
        name: as the file calls it.
        kind: "F32", "F16" or "BF16".
        shape: sizes, slowest dimension first.
        path: the file, for errors.
        array: a read-only view of the mapped file; uint16 for BF16.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    path: Path
    array: NDArray[Any]

    def rows(self, selection: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows (of a vector: elements) as float32, exactly.

        Raises:
            SourceError: one of them is not a finite number.
        """
        part = self.array[selection]
        if self.kind == "BF16":
            part = (part.astype(np.uint32) << 16).view(np.float32)
        values = np.ascontiguousarray(part, dtype=np.float32)
        if not np.isfinite(values).all():
            raise SourceError(
                f"{self.path}: {self.name!r} holds values that are not finite numbers"
            )
        return values


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a model by name, and the SHA-256 of each file by its name."""

    tensors: Mapping[str, StoredTensor]
    digests: Mapping[str, str]
    size_bytes: int


@contextmanager
def open_weights(folder: Path) -> Iterator[Weights]:
    """Map the weights of a model directory; they can be used inside the `with` only.

    Raises:
        SourceError: see the module.
    """
    tensors: dict[str, StoredTensor] = {}
    digests: dict[str, str] = {}
    size = 0
    with ExitStack() as stack:
        opened: list[tuple[Path, BinaryIO, tuple[int, ...]]] = []
        for path in weight_files(folder):
            file = stack.enter_context(open_regular(path))
            opened.append((path, file, _state(file)))
            digests[path.name] = _digest(path, file)
            size += os.fstat(file.fileno()).st_size
            for tensor in _mapped(path, file):
                if tensor.name in tensors:
                    raise SourceError(f"{path}: {tensor.name!r} is in another file as well")
                tensors[tensor.name] = tensor
        yield Weights(tensors, digests, size)
        for path, file, before in opened:
            if _state(file) != before:
                raise SourceError(f"{path}: changed while it was read")


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights, in the order of their names.

    Raises:
        SourceError: there are none, or the index names something else.
    """
    index = folder / INDEX_FILE
    if not os.path.lexists(index):
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise SourceError(f"{folder}: has no {WEIGHTS_FILE}{pickle_hint(folder)}")
        return [path]
    content = read_json(index, 64 << 20)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise SourceError(f"{index}: has no 'weight_map'")
    names = set(places.values())
    # The names come from the model and must not lead out of its folder.
    if not all(
        isinstance(n, str) and Path(n).name == n and n.endswith(".safetensors") for n in names
    ):
        raise SourceError(f"{index}: names a file that is no *.safetensors beside it")
    if len(names) > _MAX_FILES:
        raise SourceError(f"{index}: names more than {_MAX_FILES} files")
    return [folder / name for name in sorted(names)]


def _state(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def _digest(path: Path, file: BinaryIO) -> str:
    digest = hashlib.sha256()
    try:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _mapped(path: Path, file: BinaryIO) -> Iterator[StoredTensor]:
    """Yield the tensors of one file, each a view of the mapped bytes."""
    size = os.fstat(file.fileno()).st_size
    if size < _LENGTH_BYTES:
        raise SourceError(f"{path}: ends within its header; the file is truncated")
    # The mapping lives as long as the arrays that view it.
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > _MAX_HEADER_BYTES:
        raise SourceError(f"{path}: is not a safetensors file: its header is too long")
    start = _LENGTH_BYTES + length
    if start > size:
        raise SourceError(f"{path}: ends within its header; the file is truncated")
    header = _header(path, data[_LENGTH_BYTES:start])
    end = 0
    for name, kind, shape, (begin, stop) in sorted(_entries(path, header), key=lambda e: e[3]):
        if begin != end:
            raise SourceError(f"{path}: {name!r} overlaps another tensor or leaves a gap")
        if start + stop > size:
            raise SourceError(f"{path}: ends within {name!r}; the file is truncated")
        end = stop
        flat = np.frombuffer(data, _STORED[kind], count=math.prod(shape), offset=start + begin)
        yield StoredTensor(name, kind, shape, path, flat.reshape(shape))
    if start + end != size:
        raise SourceError(f"{path}: {size - start - end} bytes follow the last tensor")


def _header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise SourceError(f"{path}: its header names something twice")
        return dict(pairs)

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: is not a safetensors file: its header is no JSON") from error
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise SourceError(f"{path}: is not a safetensors file: its header is no table of tensors")
    header.pop("__metadata__", None)
    return header


def _entries(
    path: Path, header: Mapping[str, Any]
) -> Iterator[tuple[str, str, tuple[int, ...], tuple[int, int]]]:
    for name, entry in header.items():
        fields = entry if isinstance(entry, dict) else {}
        kind = fields.get("dtype")
        if not isinstance(kind, str) or kind not in _STORED:
            raise SourceError(
                f"{path}: {name!r} has the type {kind}; weights are exported from "
                f"{', '.join(_STORED)}: save the model unquantized"
            )
        shape, place = _numbers(fields.get("shape")), _numbers(fields.get("data_offsets"))
        if shape is None or len(shape) > _MAX_DIMENSIONS or place is None or len(place) != 2:
            raise SourceError(f"{path}: {name!r} has no valid shape or place")
        begin, stop = place
        if stop - begin != math.prod(shape) * _STORED[kind].itemsize:
            raise SourceError(f"{path}: {name!r} does not have the length of its shape")
        yield name, kind, shape, (begin, stop)


def _numbers(value: object) -> tuple[int, ...] | None:
    """Return a list of sizes as a tuple, or None if it is none."""
    if not isinstance(value, list):
        return None
    return tuple(value) if all(type(v) is int and 0 <= v < 1 << 48 for v in value) else None
