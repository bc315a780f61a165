"""The weights of a model directory: which files they are, what they hold, their digest.

What is refused: whatever is no safetensors (a pickle can run code), a name in the index
that leads out of the directory, links (they would lead out as well), a file that holds
other tensors than the index says, and files that change while they are read.

Invariants: no byte of weights comes from any file but those in `StoredWeights.files`, and
the digest is of exactly these; headers are read, and can be compared with what a
configuration asks for, before any tensor is.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from security.strictjson import StrictJsonError, parse
from trainer.errors import CheckpointError

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
_MAX_INDEX_BYTES: Final = 64 << 20
_MAX_DEPTH: Final = 16
_BLOCK: Final = 1 << 20
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_PICKLES: Final = (".bin", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a network was loaded from, as it was then.

    Attributes:
        weights: SHA-256 of the weights file; of several files, of the lines "<sha256>
            <name>" (two spaces, newline) in the order of names, as `sha256sum` writes them.
        record: SHA-256 of the directory's training.json; None if it has none.
    """

    weights: str
    record: str | None


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights on disk, of which only the headers were read.

    Attributes:
        folder: the model directory.
        files: names of the files that hold them, sorted.
        shapes: of each tensor, by its name.
        places: the file of each tensor.
    """

    folder: Path
    files: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path) -> StoredWeights:
        """Find the weights of a directory and read their headers.

        Raises:
            CheckpointError: as the module says.
        """
        files, index = weight_files(folder)
        shapes: dict[str, tuple[int, ...]] = {}
        places: dict[str, str] = {}
        for name in files:
            for tensor, shape in _header(folder / name).items():
                if index is not None and index.get(tensor) != name:
                    raise CheckpointError(
                        f"{folder / name} holds {tensor[:200]!a}, and {INDEX_FILE} says "
                        "otherwise; the files are not of one model"
                    )
                shapes[tensor], places[tensor] = shape, name
        lacking = sorted(set(index or ()) - set(shapes))
        if lacking:
            raise CheckpointError(f"{folder} lacks {lacking[0][:200]!a}, which {INDEX_FILE} names")
        return cls(folder, files, shapes, places)

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors, to the CPU.

        Raises:
            CheckpointError: a file is damaged.
        """
        found: dict[str, Tensor] = {}
        for name in self.files:
            path = self.folder / name
            with _readable(path), safe_open(path, framework="pt", device="cpu") as file:
                found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return found

    def digest(self) -> str:
        """Return the digest of the files; see `Origin.weights`.

        Raises:
            CheckpointError: a file cannot be read.
        """
        return digest_of(self.folder, self.files)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check that no file changes while it is read and digested.

        Raises:
            CheckpointError: one did.
        """
        before = self._stamps()
        yield
        if self._stamps() != before:
            raise CheckpointError(
                f"the weights in {self.folder} changed while they were read; start again when "
                "nothing writes there"
            )

    def _stamps(self) -> list[tuple[int, ...]]:
        found = [_regular(self.folder / name) for name in self.files]
        return [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found]


def weight_files(folder: Path) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """Return the names of the files that hold a directory's weights, and its index if used.

    Raises:
        CheckpointError: they are pickled, or links, or outside, or there are none.
    """
    if _there(folder / WEIGHTS_FILE):
        _regular(folder / WEIGHTS_FILE)
        return (WEIGHTS_FILE,), None
    if not _there(folder / INDEX_FILE):
        _refuse_none(folder)
    index = _index(folder / INDEX_FILE)
    files = tuple(sorted(set(index.values())))
    for name in files:
        _regular(folder / name)
    return files, index


def digest_of(folder: Path, files: tuple[str, ...]) -> str:
    """Return the digest of weights files; see `Origin.weights`.

    Raises:
        CheckpointError: a file cannot be read.
    """
    if len(files) == 1 and files[0] == WEIGHTS_FILE:
        return sha256_regular(folder / WEIGHTS_FILE)
    lines = "".join(f"{sha256_regular(folder / name)}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def sha256_regular(path: Path) -> str:
    """Return the SHA-256 of a file that is no link.

    Raises:
        CheckpointError: it is one, or cannot be read.
    """
    _regular(path)
    digest = hashlib.sha256()
    with _readable(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_object(path: Path, max_bytes: int) -> dict[str, object]:
    """Read a JSON object of a model directory, strictly.

    Raises:
        CheckpointError: it is a link, too large, or no such JSON.
    """
    size = _regular(path).st_size
    if size > max_bytes:
        raise CheckpointError(
            f"{path} has {size} bytes, more than the {max_bytes} that such a file may have"
        )
    try:
        with _readable(path):
            value = parse(path.read_bytes(), max_bytes=max_bytes, max_depth=_MAX_DEPTH)
    except StrictJsonError as error:
        raise CheckpointError(
            f"{path} is no JSON that is read here: {error}; correct the file, or get it again "
            "from where it came"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def _index(path: Path) -> dict[str, str]:
    index = read_object(path, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{path} has no weight_map")
    for name in index.values():
        if not isinstance(name, str) or _PLAIN_NAME.fullmatch(name) is None:
            raise CheckpointError(
                f"{path} names the weights file {str(name)[:200]!a}; weights are read from "
                "safetensors files in the same directory alone"
            )
    return index


def _refuse_none(folder: Path) -> None:
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickled:
        raise CheckpointError(
            f"{folder} has its weights only as {pickled[0]}, a pickle, which can run code when "
            f"it is read; convert it to {WEIGHTS_FILE} in a sandbox first"
        )
    raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}")


def _there(path: Path) -> bool:
    """Whether something has this name, be it a link that leads nowhere."""
    return os.path.lexists(path)


def _regular(path: Path) -> os.stat_result:
    """Return the state of a file that is neither a link nor anything but a file."""
    try:
        found = path.lstat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise CheckpointError(
            f"{path} is a link, which may lead anywhere; copy the directory with its files in "
            "place of links (cp -rL) and name the copy"
        )
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is no regular file")
    return found


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    with _readable(path), safe_open(path, framework="pt", device="cpu") as file:
        names = list(file.keys())
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
