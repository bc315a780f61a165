"""The store's errors.

    CasemateError
    └── StoreError               the store refused or could not do something (see .reason)
        ├── StoreLocked          a second appliance on one store
        └── JournalDamaged       the state journal is broken before its end

`StoreError.reason` is one of: "disk-full", "io", "locked", "journal-damaged",
"version-exists", "epoch-too-low", "transition", "unknown-version".
"""

from __future__ import annotations

import errno
from pathlib import Path

from security.errors import CasemateError


class StoreError(CasemateError):
    """The store refused or could not do something.

    Attributes:
        reason: a stable, machine-readable word.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreLocked(StoreError):
    """Another process has this store open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            "locked",
            f"second appliance on one store: another process has {folder} open; "
            "stop it, or ask it (casemate install talks to a running appliance)",
        )


class JournalDamaged(StoreError):
    """The state journal is broken before its end, so its state cannot be trusted."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(
            "journal-damaged",
            f"{path}: record {line} is damaged ({problem}); the store will not guess what "
            "was live: restore the file from a backup, or install into a new store",
        )


def io_error(action: str, path: Path, error: OSError) -> StoreError:
    """Turn a failed file operation into an error that says what it means here."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreError(
            "disk-full", f"{action} {path}: no space left; nothing was changed, free some and retry"
        )
    return StoreError("io", f"{action} {path}: {error.strerror or error}; nothing was changed")
