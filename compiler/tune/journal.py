"""The journal of a search: every finished measurement, so that none is made twice.

One JSON object a line, in canonical form, only ever appended to and flushed before the
search goes on. A line says what it is about: the context (source, texts, versions of the
tools, machine: whatever figures depend on) and the candidate, both by digest. Lines of
another context are left alone and not used, so one folder serves a source that changes.

What a crash leaves is a last line without its end: it is cut off. Any other line that does
not read is damage, and an error: a journal is not repaired by guessing. While a search
writes a journal no second one can open it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from compiler.errors import SearchError
from security.bundle.fields import FieldError, Fields
from security.strictjson import JsonValue, StrictJsonError, canonical, parse

FORMAT: Final = "casemate.search/1"
JOURNAL_NAME: Final = "search.jsonl"
KINDS: Final = ("context", "made", "quality", "speed", "failed")
_MAX_LINE_BYTES: Final = 4 << 20
_MAX_BYTES: Final = 256 << 20
_MAX_DEPTH: Final = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal in this context.

    Attributes:
        kind: one of KINDS.
        key: digest of what it is about: a candidate's, or its plan's.
        value: the measurement, as its own type writes it.
    """

    kind: str
    key: str
    value: Mapping[str, JsonValue]


class Journal:
    """An open journal; use it as a context manager.

    Durability: `add` returns after fdatasync. Order: lines stay in the order of `add`.
    """

    def __init__(self, folder: Path, context: Mapping[str, JsonValue]) -> None:
        """Open the journal in a folder, which is made if needed.

        Args:
            folder: the search's work folder.
            context: all that figures depend on besides the candidate.

        Raises:
            SearchError: a line is damaged, or another search is writing.
            OSError: it cannot be read or written.
        """
        self.path = folder / JOURNAL_NAME
        self.context = hashlib.sha256(canonical(context)).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self.entries = self._read()
            if not any(one.kind == "context" for one in self.entries):
                self.add(Entry("context", self.context, {"format": FORMAT, **context}))
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def add(self, entry: Entry) -> None:
        """Append a measurement and wait until it is on the disk.

        Raises:
            OSError: it could not be written, for instance because the disk is full.
        """
        line = canonical(
            {
                "context": self.context,
                "kind": entry.kind,
                "key": entry.key,
                "value": dict(entry.value),
            }
        )
        data = line + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fdatasync(self._descriptor)
        self.entries.append(entry)

    def find(self, kind: str, key: str) -> list[Mapping[str, JsonValue]]:
        """Return what was measured of a kind under a key, in the order it was."""
        return [one.value for one in self.entries if (one.kind, one.key) == (kind, key)]

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SearchError(
                f"{self.path}: another search is writing to it; wait, or choose another folder"
            ) from error

    def _read(self) -> list[Entry]:
        size = os.fstat(self._descriptor).st_size
        if size > _MAX_BYTES:
            raise SearchError(f"{self.path}: has more than {_MAX_BYTES} bytes; remove it")
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            data = file.read(size)
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            # A crash within `add`: the measurement was never reported as done.
            os.ftruncate(self._descriptor, size - len(torn))
        os.lseek(self._descriptor, 0, os.SEEK_END)
        lines = whole.split(b"\n") if whole else []
        found = [self._entry(line, number) for number, line in enumerate(lines, 1)]
        return [entry for context, entry in found if context == self.context]

    def _entry(self, line: bytes, number: int) -> tuple[str, Entry]:
        try:
            given = Fields(parse(line, max_bytes=_MAX_LINE_BYTES, max_depth=_MAX_DEPTH), "line")
            context, key = given.sha256("context"), given.sha256("key")
            kind, value = given.choice("kind", KINDS), given.raw("value")
            given.done()
            if not isinstance(value, dict):
                raise FieldError("line.value: must be an object")
        except (StrictJsonError, FieldError) as error:
            raise SearchError(
                f"{self.path}: line {number} is damaged ({error}); remove the file to begin "
                "again, or that line to lose its measurement only"
            ) from error
        return context, Entry(kind, key, value)
