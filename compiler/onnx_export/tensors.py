"""Read the tensors of a directory's safetensors files, one at a time, without torch.

Refused: pickled weights, index files that name anything but safetensors in the same
directory, tensors that no file holds or two do, element types other than float32,
float16 and bfloat16, and values that are not finite numbers.

Invariants: only headers are read until a tensor is asked for; what is returned is
float32 of the shape that the header says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import SourceError
from compiler.files import Settings, pickle_hint
from security.strictjson import StrictJsonError, parse

WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
# As the format's own library bounds it.
_MAX_HEADER_BYTES: Final = 100 << 20
_MAX_HEADER_DEPTH: Final = 4


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        file: the safetensors file.
        shape: its shape.
        dtype: as safetensors writes it, for instance "F32".
        start: first byte in the file.
        size_bytes: its length there.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredTensors:
    """The tensors of a directory, by name.

    Attributes:
        folder: the directory.
        files: the safetensors files that hold them, sorted by name.
        tensors: every tensor's place.
    """

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, folder: Path) -> StoredTensors:
        """Find the weights and read their headers.

        Raises:
            SourceError: as the module says.
        """
        files = _files(folder)
        found: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in _header(file).items():
                if name in found:
                    raise SourceError(f"{file}: holds {name[:200]!a}, as another file does")
                found[name] = tensor
        return cls(folder, files, MappingProxyType(found))

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(int(np.prod(each.shape, dtype=np.int64)) for each in self.tensors.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            SourceError: there is none of that name.
        """
        return self._place(name).shape

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a tensor as float32; `shape` is what it must have.

        Raises:
            SourceError: missing, of another shape or type, not finite, or unreadable.
        """
        place = self._place(name)
        if place.shape != shape:
            raise SourceError(f"{place.file}: {name} is {place.shape}, config.json says {shape}")
        if place.dtype not in _DTYPES:
            raise SourceError(f"{place.file}: {name} is {place.dtype}; save it as float32")
        stored = _DTYPES[place.dtype]
        try:
            with place.file.open("rb") as file:
                file.seek(place.start)
                raw = np.fromfile(file, stored, place.size_bytes // stored.itemsize)
        except OSError as error:
            raise SourceError(f"{place.file}: cannot be read: {error.strerror}") from error
        if raw.size * stored.itemsize != place.size_bytes:
            raise SourceError(f"{place.file}: ends before {name} does")
        if place.dtype == "BF16":
            # The upper half of a float32.
            values: NDArray[np.float32] = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            values = raw.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise SourceError(f"{place.file}: {name} holds values that are not finite numbers")
        return values.reshape(shape)

    def _place(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            raise SourceError(f"{self.folder}: the tensor {name} is missing from its weights")
        return self.tensors[name]


def _files(folder: Path) -> tuple[Path, ...]:
    if (folder / WEIGHTS_FILE).is_file():
        return (folder / WEIGHTS_FILE,)
    if not (folder / INDEX_FILE).is_file():
        raise SourceError(f"{folder}: has no {WEIGHTS_FILE}{pickle_hint(folder)}")
    index = Settings(folder / INDEX_FILE).raw("weight_map")
    names = set(index.values()) if isinstance(index, dict) else set()
    for name in sorted(map(str, names)):
        if _PLAIN_NAME.fullmatch(name) is None:
            raise SourceError(
                f"{folder / INDEX_FILE}: names {name[:200]!a}; weights are read from safetensors "
                "files in the same folder alone"
            )
        if not (folder / name).is_file():
            raise SourceError(f"{folder}: has no {name}, which {INDEX_FILE} names")
    if not names:
        raise SourceError(f"{folder / INDEX_FILE}: names no file")
    return tuple(folder / name for name in sorted(names))


def _header(path: Path) -> dict[str, StoredTensor]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _MAX_HEADER_BYTES:
                raise SourceError(f"{path}: is not a valid safetensors file: no header")
            content = parse(
                file.read(length), max_bytes=_MAX_HEADER_BYTES, max_depth=_MAX_HEADER_DEPTH
            )
            size = file.seek(0, 2)
    except StrictJsonError as error:
        raise SourceError(f"{path}: is not a valid safetensors file: {error}") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: is not a valid safetensors file: its header is no object")
    entries = {name: entry for name, entry in content.items() if name != "__metadata__"}
    return {name: _place(path, 8 + length, size, name, entry) for name, entry in entries.items()}


def _place(path: Path, start: int, size: int, name: str, entry: Any) -> StoredTensor:
    try:
        shape = tuple(int(side) for side in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
        dtype = str(entry["dtype"])
    except (TypeError, KeyError, ValueError) as error:
        raise SourceError(f"{path}: the header's entry of {name[:200]!a} is malformed") from error
    stored = _DTYPES.get(dtype)
    elements = int(np.prod(shape, dtype=object)) if shape else 1
    fits = 0 <= begin <= end <= size - start and all(side >= 0 for side in shape)
    if not fits or (stored is not None and elements * stored.itemsize != end - begin):
        raise SourceError(f"{path}: the header's entry of {name[:200]!a} does not fit the file")
    return StoredTensor(path, shape, dtype, start + begin, end - begin)
