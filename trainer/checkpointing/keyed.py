"""Digests of private data under a key, so that an exported record gives no guess away.

A SHA-256 of the data confirms a guess: who knows every record but one tries what the last
may be until the digest is right. What is exported of a private run is therefore

    HMAC-SHA256(key, digest as it would have been written, in ASCII)

and the key stays in the run's folder. With it, the owner can show what a run was fed.

Invariants: a run has one key, made once, so that a run that goes on says the same; the key
is never written into an export.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from trainer.checkpointing.files import flush_folder
from trainer.errors import CheckpointError

KEY_FILE: Final = "data.key"
_KEY_BYTES: Final = 32
_MODE: Final = 0o600


def data_key(folder: Path) -> bytes:
    """Return the key of a run, 32 bytes; one that has none gets one.

    Args:
        folder: of the run.

    Raises:
        CheckpointError: the key cannot be read or made, or is damaged.
    """
    path = folder / KEY_FILE
    try:
        if not os.path.lexists(path):
            _make(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            key = file.read(_KEY_BYTES + 1)
    except OSError as problem:
        raise CheckpointError(
            f"the key of the data's digests {path} cannot be read or made: {problem.strerror}"
        ) from problem
    if len(key) != _KEY_BYTES:
        raise CheckpointError(
            f"{path} is damaged: it is no key of {_KEY_BYTES} bytes. Restore it; or remove it, and "
            "the digests of what is exported from now on are others"
        )
    return key


def keyed(key: bytes, digest: str) -> str:
    """Return what stands for a digest of private data: 64 hexadecimal digits."""
    return hmac.new(key, digest.encode(), "sha256").hexdigest()


def _make(path: Path) -> None:
    """Write a new key under another name, flush it and rename it: it is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    flush_folder(path.parent)
