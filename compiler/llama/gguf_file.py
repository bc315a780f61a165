"""A GGUF file as tensors and raw metadata: read by mapping, written by streaming.

The security pre-parser accepts a file before anything here looks at it. Metadata is
copied as the bytes it is, never decoded and encoded again, so a rewritten file differs
from its source in its tensors only. The writer takes the bytes of one tensor at a time.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import SourceError
from compiler.files import ANYWHERE, open_regular
from security.preparse.gguf import DEFAULT_ALIGNMENT_BYTES, DEFAULT_LIMITS, check_gguf
from security.preparse.gguf_types import TENSOR_TYPES
from security.preparse.gguf_wire import Array, Header, Scalar, read_header
from security.preparse.summary import GgufSummary

_FIXED_HEADER_BYTES = 24
_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a file; `dimensions` from the fastest to the slowest, as in the file."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    start: int = 0

    @property
    def columns(self) -> int:
        """Elements of a row, the inputs of a matrix."""
        return self.dimensions[0]

    @property
    def rows(self) -> int:
        """Rows, the outputs of a matrix."""
        return math.prod(self.dimensions[1:])

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight that may take a format at all; vectors may not."""
        wide = len([size for size in self.dimensions if size > 1]) > 1
        return wide and self.name.endswith(".weight") and "norm" not in self.name

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        kind = TENSOR_TYPES[_NUMBERS[self.type]]
        return self.columns // kind.block_elements * kind.block_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows, without padding."""
        return self.row_bytes * self.rows


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A checked, mapped file."""

    path: Path
    summary: GgufSummary
    header: Header
    tensors: tuple[Tensor, ...]
    data: mmap.mmap

    def tensor(self, name: str) -> Tensor:
        """Return the tensor called `name`.

        Raises:
            SourceError: there is none.
        """
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise SourceError(f"{self.path}: has no tensor {name}")

    def rows(self, tensor: Tensor, first: int = 0, end: int | None = None) -> memoryview:
        """Return the bytes of some rows, without copying; valid while the file is open."""
        end = tensor.rows if end is None else end
        start = tensor.start + first * tensor.row_bytes
        return memoryview(self.data)[start : start + (end - first) * tensor.row_bytes]

    @property
    def tokens(self) -> list[bytes]:
        """The vocabulary, in the order of its numbers; empty where the file has none."""
        item = self.header.pairs.get("tokenizer.ggml.tokens")
        values = item.values if isinstance(item, Array) else ()
        return [one for one in values if isinstance(one, bytes)]

    @property
    def pair_count(self) -> int:
        """Number of metadata keys."""
        return len(self.header.pairs)

    @property
    def metadata(self) -> memoryview:
        """The encoded metadata, from the first key to the last value."""
        infos = sum(_info_bytes(tensor) for tensor in self.tensors)
        return memoryview(self.data)[_FIXED_HEADER_BYTES : self.header.end - infos]

    @property
    def alignment(self) -> int:
        """Bytes to whose multiples tensors are aligned."""
        return _alignment(self.header)


def _alignment(header: Header) -> int:
    item = header.pairs.get("general.alignment")
    return int(item.value) if isinstance(item, Scalar) else DEFAULT_ALIGNMENT_BYTES


def _info_bytes(tensor: Tensor) -> int:
    return 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.dimensions) + 4 + 8


def check_file(path: Path) -> GgufSummary:
    """Let the pre-parser judge a file.

    Raises:
        SourceError: it cannot be opened.
        UnsafeModelError: the pre-parser refuses it.
    """
    with open_regular(path, ANYWHERE) as file:
        return check_gguf(file.fileno(), os.fstat(file.fileno()).st_size)


@contextmanager
def open_gguf(path: Path) -> Iterator[GgufFile]:
    """Check and map a file; its views must be gone when the block ends.

    Raises:
        SourceError: it cannot be opened.
        UnsafeModelError: the pre-parser refuses it.
    """
    with open_regular(path, ANYWHERE) as file:
        size = os.fstat(file.fileno()).st_size
        summary = check_gguf(file.fileno(), size)
        data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    header = read_header(data, DEFAULT_LIMITS)
    alignment = _alignment(header)
    start = -(-header.end // alignment) * alignment
    tensors = tuple(
        Tensor(
            info.name,
            TENSOR_TYPES[info.type_number].name,
            info.dimensions,
            start + info.offset,
        )
        for info in header.tensors
    )
    # Not closed by hand: numpy views of it may still be referenced by a traceback.
    yield GgufFile(path, summary, header, tensors, data)


def write_gguf(
    out: Path,
    source: GgufFile,
    tensors: Sequence[Tensor],
    content: Callable[[Tensor], Iterable[memoryview]],
) -> None:
    """Write a file with the source's metadata and other tensors, in the order given.

    Args:
        out: the file to write, made anew.
        tensors: name, format and dimensions of each; `start` is not looked at.
        content: gives the bytes of a tensor piece by piece.

    Raises:
        OSError: the disk is full, or the target cannot be written.
        SourceError: the pieces of a tensor do not add up to its size.
    """
    alignment = source.alignment
    with out.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), source.pair_count))
        file.write(source.metadata)
        offset = 0
        for tensor in tensors:
            name = tensor.name.encode()
            count = len(tensor.dimensions)
            file.write(struct.pack("<Q", len(name)) + name)
            file.write(struct.pack(f"<I{count}Q", count, *tensor.dimensions))
            file.write(struct.pack("<IQ", _NUMBERS[tensor.type], offset))
            offset += -(-tensor.size_bytes // alignment) * alignment
        for tensor in tensors:
            file.write(bytes(-file.tell() % alignment))
            written = 0
            for piece in content(tensor):
                written += file.write(piece)
            if written != tensor.size_bytes:
                raise SourceError(
                    f"{tensor.name}: {written} bytes were made where {tensor.size_bytes} belong"
                )
        file.write(bytes(-file.tell() % alignment))
        file.flush()
        os.fsync(file.fileno())
