"""What an interrupted run goes on from: both matrices after a number of chunks.

A saved state is a folder `step-00000123` (123 chunks of the run are done) with
`matrices.safetensors` and `progress.json`, which holds the digests of the matrices, the
recipe and the data. It appears under its name only when all of it is on the disk; the
older ones go afterwards. Reading refuses a state of another recipe or other data, and
damaged files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from trainer.errors import CheckpointError

FORMAT = "casemate.word-embeddings-state/1"
_PROGRESS_FILE = "progress.json"
_MATRICES_FILE = "matrices.safetensors"
_NAME = re.compile(r"step-(\d{8,})")
_READ_BYTES = 1 << 20
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state that was read and checked.

    Attributes:
        chunks: done when it was saved.
        inputs: f32[V, D].
        outputs: f32[V, D].
        progress: what else the run had saved.
    """

    chunks: int
    inputs: Matrix
    outputs: Matrix
    progress: Mapping[str, Any]


class StateFolder:
    """The saved states of a run.

    Args:
        folder: where they are; need not exist.
        recipe_digest: of the values that decide the result.
        data_digest: of the text.
        keep: newest states kept.
    """

    def __init__(self, folder: Path, recipe_digest: str, data_digest: str, keep: int) -> None:
        self._folder = folder
        self._recipe_digest = recipe_digest
        self._data_digest = data_digest
        self._keep = keep

    def save(
        self, chunks: int, inputs: Matrix, outputs: Matrix, progress: Mapping[str, Any]
    ) -> Path:
        """Write a state; the folder is complete and durable when this returns.

        Raises:
            CheckpointError: it could not be written; the states before it are untouched.
        """
        target = self._folder / f"step-{chunks:08d}"
        partial = target.with_name(f"{target.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            self._fill(partial, inputs, outputs, {**progress, "chunks": chunks})
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            _sync(self._folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"{target} could not be written: {error.strerror}; the states saved before it "
                "are whole, and the same command goes on from the newest"
            ) from error
        for old in self._saved()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self) -> SavedState | None:
        """Read the newest state, if there is one.

        Raises:
            CheckpointError: it is damaged, or belongs to another recipe or other data.
        """
        saved = self._saved()
        return self._read(saved[-1]) if saved else None

    def _fill(
        self, folder: Path, inputs: Matrix, outputs: Matrix, progress: Mapping[str, Any]
    ) -> None:
        matrices = folder / _MATRICES_FILE
        tensors = {
            "inputs": np.ascontiguousarray(inputs),
            "outputs": np.ascontiguousarray(outputs),
        }
        try:
            save_file(tensors, matrices)
        except SafetensorError as error:
            # The library reports a full disk as an error of its own.
            raise OSError(0, str(error)) from error
        content = {
            "format": FORMAT,
            "recipe_digest": self._recipe_digest,
            "data_digest": self._data_digest,
            "matrices_sha256": _digest(matrices),
            "progress": dict(progress),
        }
        text = json.dumps(content, indent=2) + "\n"
        (folder / _PROGRESS_FILE).write_text(text, encoding="utf-8")
        for path in (matrices, folder / _PROGRESS_FILE, folder):
            _sync(path)

    def _read(self, folder: Path) -> SavedState:
        advice = f"remove {folder} to go on from the one before, or all of them to start anew"
        try:
            content = json.loads((folder / _PROGRESS_FILE).read_bytes())
            if content["format"] != FORMAT:
                raise CheckpointError(f"{folder} has the format {content['format']!r}; {advice}")
            progress = dict(content["progress"])
            chunks = int(progress.pop("chunks"))
            expected = content["matrices_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / _PROGRESS_FILE} is damaged; {advice}") from error
        self._check_origin(folder, content)
        try:
            if _digest(folder / _MATRICES_FILE) != expected:
                raise CheckpointError(
                    f"{folder / _MATRICES_FILE} is damaged: its digest differs; {advice}"
                )
            tensors = load_file(folder / _MATRICES_FILE)
            return SavedState(chunks, tensors["inputs"], tensors["outputs"], progress)
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{folder / _MATRICES_FILE} is damaged; {advice}") from error

    def _check_origin(self, folder: Path, content: Mapping[str, Any]) -> None:
        other = None
        if content.get("recipe_digest") != self._recipe_digest:
            other = "another recipe"
        elif content.get("data_digest") != self._data_digest:
            other = "other data"
        if other:
            raise CheckpointError(
                f"{folder} was saved by a run of {other}; give that run's recipe and data, or a "
                "new output folder"
            )

    def _saved(self) -> list[Path]:
        """Complete states, the oldest first."""
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
