"""What the audit and receipt commands share: opening a log's folder and printing times.

Everything a user names on the command line is read here, bounded, and with an
error that says which file is meant.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from security.audit.note import VerifierKey
    from security.audit.published import PublishedLog

FILE_MAX_BYTES = 64 << 20
# A running appliance publishes its log about once a second, behind the receipts it gave.
PUBLISH_WAIT_SECONDS = 3.0
_POLL_SECONDS = 0.05
UNPUBLISHED = (
    "it was cut, is an older copy, or its last entries are not published yet "
    "(a running appliance publishes within seconds, one that was killed at its next start)"
)
_AGES = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def open_log(folder: Path, keys: tuple[VerifierKey, ...]) -> PublishedLog:
    """Open a log's folder under its newest checkpoint, whose signatures are checked."""
    from security.audit.published import PublishedLog
    from security.errors import AuditError

    try:
        return PublishedLog(folder, keys)
    except FileNotFoundError as error:
        raise AuditError(f"{folder} is not an audit log: it has no checkpoint") from error


def open_log_of(folder: Path, keys: tuple[VerifierKey, ...], size: int) -> PublishedLog:
    """Open a log's folder, waiting a little for a log of at least `size` entries.

    The log that is returned may still be shorter; that is for the caller to judge.
    """
    end = time.monotonic() + PUBLISH_WAIT_SECONDS
    log = open_log(folder, keys)
    while log.size < size and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        log = open_log(folder, keys)
    return log


def read_vkeys(path: Path) -> tuple[VerifierKey, ...]:
    """Read the log's verifier keys from a file."""
    from security.audit.note import parse_vkeys

    return parse_vkeys(read_text(path, "the log's verifier keys"))


def read_text(path: Path, what: str) -> str:
    """Read a small text file that the user named."""
    return read_file(path, what).decode("utf-8", errors="surrogateescape")


def read_file(path: Path, what: str, limit_bytes: int = FILE_MAX_BYTES) -> bytes:
    """Read a file that the user named; say plainly what is wrong with it."""
    from security.audit.published import read_bounded
    from security.errors import UsageError

    try:
        return read_bounded(path, limit_bytes)
    except FileNotFoundError as error:
        raise UsageError(f"{what}: no such file: {path}") from error


def parse_since(text: str, now: datetime) -> int:
    """Return Unix milliseconds for an age such as "2h" or a date; UTC where none is said."""
    unit = _AGES.get(text[-1:])
    if unit and text[:-1].isdecimal() and len(text) <= 7:
        moment = now - timedelta(**{unit: int(text[:-1])})
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise click.BadParameter(
                f"{text!r} is no age (30m, 2h, 7d) and no date (2026-11-23T08:00)",
                param_hint="--since",
            ) from error
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def format_time(time_ms: int) -> str:
    """Return Unix milliseconds as UTC, to the second."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def signers(keys: tuple[VerifierKey, ...]) -> list[str]:
    """Name keys as "algorithm name"."""
    from security.audit.note import ALGORITHM_NAMES

    return [f"{ALGORITHM_NAMES[key.algorithm]} {key.name}" for key in keys]
