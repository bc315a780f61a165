"""Tensors by name, read from their files a piece at a time, as float32.

`open_weights` reads headers alone. A tensor is read when it is asked for, whole or some
rows of it, from a file that is opened for that and closed again: so nothing has to be
closed, no more is in memory than was asked for, and a file that is cut while it is read is
an error, where a mapping of it would be a signal that ends the process.

Invariants: every byte that is handed out comes from the file whose header was verified
(the same one on the disk, of the same length, not written to since); values are finite
float32 of the shape in the header.

Refused when they are read: types other than F32, F16 and BF16.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import SourceError
from compiler.files import open_regular
from compiler.weights.files import weight_files
from compiler.weights.header import (
    LENGTH_BYTES,
    Entry,
    HeaderError,
    header_length,
    read_header,
)

# How each type lies in a file; of BF16 the upper half of a float32.
FLOATS: Final[Mapping[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file whose header was verified, and by what it is known again."""

    path: Path
    state: tuple[int, ...]
    size_bytes: int

    @contextmanager
    def open(self) -> Iterator[BufferedReader]:
        """Open the file that was verified.

        Raises:
            SourceError: it is another one, or was written to meanwhile.
        """
        with open_regular(self.path) as file:
            self._require_same(file)
            yield file
            self._require_same(file)

    def read(self, start: int, size: int) -> NDArray[np.uint8]:
        """Return some bytes.

        Raises:
            SourceError: as `open`, or it cannot be read.
        """
        with self.open() as file:
            try:
                file.seek(start)
                data = np.fromfile(file, np.uint8, size)
            except OSError as error:
                raise SourceError(f"{self.path}: cannot be read: {error.strerror}") from error
        if data.size != size:
            raise SourceError(f"{self.path}: changed while it was read")
        return data

    def digest(self) -> str:
        """Return the file's SHA-256, hexadecimal.

        Raises:
            SourceError: as `read`.
        """
        with self.open() as file:
            try:
                return hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise SourceError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _require_same(self, file: BufferedReader) -> None:
        if _state(file) != self.state:
            raise SourceError(f"{self.path}: changed while it was read")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in its file.

    Attributes:
        name: as the file calls it.
        kind: as the format calls its type: "F32", "F16", "BF16", "I64" and so on.
        shape: sizes, slowest dimension first.
        file: where it lies.
        start: its first byte there.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    file: WeightsFile
    start: int

    @property
    def path(self) -> Path:
        """The file, for errors."""
        return self.file.path

    def require_float(self) -> None:
        """Check that its values are plain floating point numbers.

        Raises:
            SourceError: they are not: the weights are quantized, or no weights.
        """
        if self.kind not in FLOATS:
            raise SourceError(
                f"{self.path}: {self.name!a} is {self.kind}; weights are exported from "
                f"{', '.join(FLOATS)}: save the model unquantized, for instance as float32"
            )

    def read(self) -> NDArray[np.float32]:
        """Return it whole.

        Raises:
            SourceError: of another type, not finite, or unreadable.
        """
        return self._values(0, math.prod(self.shape)).reshape(self.shape)

    def rows(self, selection: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows (of a vector: elements): a slice without steps, or by number.

        Rows by number cost the memory of all between the first and the last of them.

        Raises:
            SourceError: as `read`.
        """
        if isinstance(selection, slice):
            first, end, _ = selection.indices(self.shape[0])
        else:
            first, end = int(selection.min()), int(selection.max()) + 1
        width = math.prod(self.shape[1:])
        values = self._values(first * width, max(0, end - first) * width)
        values = values.reshape(-1, *self.shape[1:])
        return values if isinstance(selection, slice) else values[selection - first]

    def _values(self, first: int, count: int) -> NDArray[np.float32]:
        self.require_float()
        stored = FLOATS[self.kind]
        data = self.file.read(self.start + first * stored.itemsize, count * stored.itemsize)
        raw = data.view(stored)
        if self.kind == "BF16":
            values: NDArray[np.float32] = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            values = raw.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise SourceError(
                f"{self.path}: {self.name!a} holds values that are not finite numbers"
            )
        return values


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a folder.

    Attributes:
        folder: the folder.
        files: the files that hold them, sorted by name.
        tensors: by name.
    """

    folder: Path
    files: tuple[WeightsFile, ...]
    tensors: Mapping[str, StoredTensor]
    _digests: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(each.shape) for each in self.tensors.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of each file by its name; read once.

        Raises:
            SourceError: a file changed or cannot be read.
        """
        for file in self.files:
            if file.path.name not in self._digests:
                self._digests[file.path.name] = file.digest()
        return MappingProxyType(self._digests)

    def require_floats(self) -> None:
        """Check that every tensor is plain floating point numbers.

        Raises:
            SourceError: one is not; names it.
        """
        for tensor in self.tensors.values():
            tensor.require_float()

    def tensor(self, name: str) -> StoredTensor:
        """Return a tensor.

        Raises:
            SourceError: there is none of that name.
        """
        if name not in self.tensors:
            raise SourceError(f"{self.folder}: the tensor {name!a} is missing from its weights")
        return self.tensors[name]

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a tensor; `shape` is what it must have.

        Raises:
            SourceError: missing, of another shape or type, not finite, or unreadable.
        """
        return self.require(name, shape).read()

    def require(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Return a tensor that can be read; `shape` is what it must have.

        Raises:
            SourceError: missing, or of another shape or type.
        """
        tensor = self.tensor(name)
        if tensor.shape != shape:
            raise SourceError(
                f"{tensor.path}: {name!a} is {tensor.shape}, config.json says {shape}"
            )
        tensor.require_float()
        return tensor


def open_weights(folder: Path) -> Weights:
    """Find the weights of a model folder and verify what their headers say.

    Raises:
        SourceError: there are none, only pickled ones, a file is no safetensors file or is
            cut short, or two files hold a tensor of one name.
    """
    files, tensors = [], dict[str, StoredTensor]()
    for path in weight_files(folder):
        file, entries = _verified(path)
        files.append(file)
        for entry in entries:
            if entry.name in tensors:
                raise SourceError(f"{path}: holds {entry.name[:200]!a}, as another file does")
            tensors[entry.name] = StoredTensor(
                entry.name, entry.kind, entry.shape, file, entry.start
            )
    return Weights(folder, tuple(files), MappingProxyType(tensors))


def _verified(path: Path) -> tuple[WeightsFile, tuple[Entry, ...]]:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        size = status.st_size
        try:
            length = header_length(file.read(LENGTH_BYTES), size)
            entries = read_header(file.read(length), size)
        except HeaderError as error:
            raise SourceError(f"{path}: {error}") from error
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
        return WeightsFile(path, _state(file), size), entries


def _state(file: BufferedReader) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
