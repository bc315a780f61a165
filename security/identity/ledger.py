"""The ledger of an authority: one line of JSON for each certificate issued or revoked.

Append-only, `identities.jsonl`. A line is written and flushed before the certificate
it describes is handed out, so no certificate exists that the ledger does not know. A
revocation is a second line with the same serial number; the last line of a serial
number counts. After a crash a line without its line end may be left: what it describes
was never handed out, so it is dropped, and removed by the next append.

What it refuses: a whole line that is malformed. A damaged ledger is for a person to
look at; guessing could bring a revoked certificate back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from security.errors import IdentityError
from security.files import MAX_TRUST_FILE_BYTES, read_bounded
from security.identity.profile import parse_rfc3339, rfc3339
from security.identity.spiffe import APPLIANCE_ROLE, SpiffeId
from security.strictjson import StrictJsonError, canonical, parse

MAX_LINE_BYTES = 4096
_SERIAL = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One certificate.

    Attributes:
        serial: 40 lower-case hex digits.
        spiffe_id, role, name: whom it names.
        not_before, not_after: when it counts, RFC 3339 UTC.
        revoked_at: when it was revoked, RFC 3339 UTC; None while it was not.
    """

    serial: str
    spiffe_id: str
    role: str
    name: str
    not_before: str
    not_after: str
    revoked_at: str | None

    @classmethod
    def of(
        cls, serial: str, spiffe_id: SpiffeId, not_before: datetime, not_after: datetime
    ) -> LedgerEntry:
        """Describe a new certificate."""
        role, name = spiffe_id.role_and_name()
        window = rfc3339(not_before), rfc3339(not_after)
        return cls(serial, str(spiffe_id), role, name, *window, revoked_at=None)

    def state(self, now: datetime) -> str:
        """Return "revoked", "expired" or "active" at `now`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if parse_rfc3339(self.not_after) < now else "active"

    def revoked(self, moment: datetime) -> LedgerEntry:
        """Return the entry as it stands after a revocation."""
        return replace(self, revoked_at=rfc3339(moment))


class Ledger:
    """The ledger in one file. Hold the authority's lock while using it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = read_bounded(path)
        self._whole_bytes = data.rfind(b"\n") + 1
        lines = data[: self._whole_bytes].split(b"\n")[:-1]
        self.line_count = len(lines)
        self._entries: dict[str, LedgerEntry] = {}
        for number, line in enumerate(lines, start=1):
            entry = _parse(line, f"{path}:{number}")
            self._entries[entry.serial] = entry

    def entries(self) -> list[LedgerEntry]:
        """Return the certificates in the order of issue, each as it stands now."""
        return list(self._entries.values())

    def active(self, name: str, now: datetime) -> list[LedgerEntry]:
        """Return the client certificates of `name` that count at `now`."""
        return [
            entry
            for entry in self._entries.values()
            if entry.name == name and entry.role != APPLIANCE_ROLE and entry.state(now) == "active"
        ]

    def revocations(self) -> Mapping[int, datetime]:
        """Return serial number to time of revocation."""
        return {
            int(entry.serial, 16): parse_rfc3339(entry.revoked_at)
            for entry in self._entries.values()
            if entry.revoked_at is not None
        }

    def append(self, *entries: LedgerEntry) -> None:
        """Write entries, durably; all that was whole before stays as it is.

        Raises:
            IdentityError: the ledger would grow beyond what is ever read back.
            OSError: the disk refused. Read the ledger again before using it further.
        """
        lines = b"".join(canonical(asdict(entry)) + b"\n" for entry in entries)
        if self._whole_bytes + len(lines) > MAX_TRUST_FILE_BYTES:
            raise IdentityError(f"{self.path} is full: {MAX_TRUST_FILE_BYTES} bytes")
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "wb") as file:
            file.truncate(self._whole_bytes)
            file.seek(self._whole_bytes)
            file.write(lines)
            file.flush()
            os.fsync(descriptor)
        self._whole_bytes += len(lines)
        self.line_count += len(entries)
        for entry in entries:
            self._entries[entry.serial] = entry


def _parse(line: bytes, where: str) -> LedgerEntry:
    try:
        value = parse(line, max_bytes=MAX_LINE_BYTES, max_depth=1)
        names = {field.name for field in fields(LedgerEntry)}
        if not isinstance(value, dict) or set(value) != names:
            raise IdentityError(f"{where}: the keys are not those of a ledger entry")
        texts = [text for key, text in value.items() if key != "revoked_at" or text is not None]
        if not all(isinstance(text, str) for text in texts):
            raise IdentityError(f"{where}: a value is no text")
        entry = LedgerEntry(**value)
        if not _SERIAL.fullmatch(entry.serial):
            raise IdentityError(f"{where}: the serial number is not 40 hex digits")
        for moment in (entry.not_before, entry.not_after, entry.revoked_at):
            if moment is not None:
                parse_rfc3339(moment)
        if SpiffeId.parse(entry.spiffe_id).role_and_name() != (entry.role, entry.name):
            raise IdentityError(f"{where}: the SPIFFE id has another role or name")
    except (StrictJsonError, ValueError) as error:
        raise IdentityError(f"{where} is damaged: {error}") from error
    return entry
