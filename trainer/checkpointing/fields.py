"""Reads values out of parsed JSON, each of its exact type, or says which key is wrong."""

from __future__ import annotations

import re
from typing import Any, Final

from trainer.errors import CheckpointError

SHA256: Final = re.compile(r"[0-9a-f]{64}")
TIME: Final = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z")


def exactly(value: object, keys: frozenset[str], where: str) -> dict[str, Any]:
    """Return an object that has these keys and no other.

    Raises:
        CheckpointError: naming `where` and the first key that is missing or unknown.
    """
    found = mapping(value, where)
    for key in sorted(found.keys() ^ keys):
        defect = "is missing" if key in keys else "is no key of this format"
        raise CheckpointError(f"{where}: {key!a} {defect}")
    return found


def mapping(value: object, where: str) -> dict[str, Any]:
    """Return an object with any keys."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is no object")
    return value


def array(value: object, where: str) -> list[Any]:
    """Return an array."""
    if not isinstance(value, list):
        raise CheckpointError(f"{where} is no array")
    return value


def text(value: object, where: str, pattern: re.Pattern[str] | None = None) -> str:
    """Return a string, of a form if one is given."""
    if not isinstance(value, str) or (pattern is not None and pattern.fullmatch(value) is None):
        raise CheckpointError(f"{where} is no text of the right form")
    return value


def integer(value: object, where: str) -> int:
    """Return an integer of 0 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CheckpointError(f"{where} is no integer of 0 or more")
    return value


def number(value: object, where: str) -> float:
    """Return a number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"{where} is no number")
    return float(value)
