"""Exports a finished model: an ordinary Hugging Face directory with `training.json`.

docs/formats/checkpoint.md is normative. The directory appears whole or not at all: it is
written beside its place as `<name>.partial`, flushed, and renamed. A directory that is
there already is exchanged in one step, so a crash leaves the old one or the new one.

Files get mode 0644 and folders 0755 whatever the umask, as signing requires.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from safetensors import SafetensorError
from torch import Tensor

from trainer.checkpointing.files import flush_file, flush_folder, sha256_file, write_durably
from trainer.checkpointing.record import RECORD_NAME, RecordedFile, TrainingRecord
from trainer.checkpointing.storage import reason_of
from trainer.errors import CheckpointError

_FILE_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o755
# linux/fs.h and fcntl.h
_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100


class Saveable(Protocol):
    """What can be exported: a network, or word vectors."""

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors."""
        ...


class SaveableTokenizer(Protocol):
    """A tokenizer."""

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and what belongs to it."""
        ...


def export_checkpoint(
    folder: Path,
    network: Saveable,
    state: Mapping[str, Tensor] | None,
    tokenizer: SaveableTokenizer | None,
    record: TrainingRecord,
) -> Path:
    """Write the checkpoint into `folder`, replacing what is there; one rank calls it.

    Args:
        folder: where; its parent exists.
        network: what to save.
        state: its weights where they are not in it (`full_state`); None for its own.
        tokenizer: None for a model without.
        record: its `files` are filled in here.

    Returns:
        The folder.

    Raises:
        CheckpointError: it could not be written; what was there stays.
    """
    partial = folder.with_name(folder.name + ".partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        network.save(partial, state)
        if tokenizer is not None:
            tokenizer.save(partial)
        _complete(partial, record)
        _put_in_place(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {folder} could not be exported: {reason_of(error)}. The run's own "
            "checkpoints are kept: make room, then run the same command again"
        ) from error
    return folder


def _complete(partial: Path, record: TrainingRecord) -> None:
    """Add the record of all files, and flush everything."""
    files: dict[str, RecordedFile] = {}
    for path in sorted(path for path in partial.rglob("*") if path.is_file()):
        name = path.relative_to(partial).as_posix()
        path.chmod(_FILE_MODE)
        flush_file(path)
        files[name] = RecordedFile(sha256_file(path), path.stat().st_size)
    write_durably(partial / RECORD_NAME, replace(record, files=files).encode())
    (partial / RECORD_NAME).chmod(_FILE_MODE)
    for path in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
        path.chmod(_FOLDER_MODE)
        flush_folder(path)


def _put_in_place(partial: Path, folder: Path) -> None:
    if folder.exists():
        _exchange(partial, folder)
        flush_folder(folder.parent)
        shutil.rmtree(partial)
    else:
        partial.rename(folder)
        flush_folder(folder.parent)


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step (renameat2, Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        if number not in {errno.ENOSYS, errno.EINVAL}:
            raise OSError(number, os.strerror(number), str(other))
        # A file system that cannot: the old one goes first, and for a moment there is none.
        away = other.with_name(other.name + ".replaced")
        other.rename(away)
        one.rename(other)
        away.rename(one)
