"""Which file names a bundle may hold.

A name is one to `MAX_DEPTH` components joined by "/", each of ASCII letters, digits,
".", "_" and "-", starting with a letter, digit or "_", and not ending with a dot. So
there is nothing to normalise, no hidden file, no option-like or device-like name,
no look-alike letter, and the name means the same on every system. Names that differ
only in case cannot live together.

Pure functions; nothing here touches a file system.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from security.errors import BundleError

SIGNATURE_NAME: Final = "model.sig"
SIDECAR_NAME: Final = "model.sig.mldsa65"
SIGNATURE_NAMES: Final = frozenset({SIGNATURE_NAME, SIDECAR_NAME})

MAX_DEPTH: Final = 4
MAX_COMPONENT_CHARS: Final = 128
_COMPONENT: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
# Windows gives these to devices, whatever the extension.
_DEVICES: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def check_name(name: str) -> None:
    """Refuse a relative file name that is not portable and harmless.

    Raises:
        BundleError: the reason tells the defect: "nul", "backslash", "absolute-path",
            "path-escape", "not-nfc" or "bad-name".
    """
    shown = printable(name)
    if "\0" in name:
        raise BundleError("nul", f"a file name holds a NUL: {shown}")
    if "\\" in name:
        raise BundleError("backslash", f"a file name holds a backslash: {shown}")
    if name.startswith("/"):
        raise BundleError("absolute-path", f"a file name is absolute: {shown}")
    parts = name.split("/")
    if ".." in parts:
        raise BundleError("path-escape", f"a file name leads out of the bundle: {shown}")
    if not unicodedata.is_normalized("NFC", name):
        raise BundleError("not-nfc", f"a file name is not in Unicode normal form C: {shown}")
    if len(parts) > MAX_DEPTH:
        raise BundleError("bad-name", f"more than {MAX_DEPTH} levels of directories: {shown}")
    for part in parts:
        if len(part) > MAX_COMPONENT_CHARS or not _COMPONENT.fullmatch(part):
            raise BundleError(
                "bad-name", f"file names use ASCII letters, digits, '.', '_' and '-': {shown}"
            )
        if _DEVICES.fullmatch(part):
            raise BundleError("bad-name", f"a file name is a device on some systems: {shown}")


def check_together(names: Iterable[str]) -> None:
    """Refuse names that cannot all exist, or be told apart, on every file system.

    Raises:
        BundleError: "duplicate-name", "case-collision", or "name-conflict" (one name is
            a file and also the directory of another).
    """
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if files.get(folded) == name:
            raise BundleError("duplicate-name", f"listed twice: {printable(name)}")
        if folded in files:
            raise BundleError("case-collision", f"differs only in case: {printable(name)}")
        files[folded] = name
        for parent in parents(name):
            known = directories.setdefault(parent.casefold(), parent)
            if known != parent:
                raise BundleError("case-collision", f"differs only in case: {printable(parent)}")
    for folded in files.keys() & directories.keys():
        raise BundleError("name-conflict", f"file and directory at once: {printable(folded)}")


def parents(name: str) -> list[str]:
    """Return the directories that lead to `name`, outermost first: "a/b/c" has "a", "a/b"."""
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def order_key(name: str) -> tuple[str, ...]:
    """The order of resources in a statement: by component, as OMS implementations sort."""
    return tuple(name.split("/"))


def printable(name: str, max_chars: int = 120) -> str:
    """Return `name` quoted in ASCII and shortened, safe for a terminal and a log."""
    text = ascii(name)
    return text if len(text) <= max_chars else f"{text[:max_chars]}...'"
