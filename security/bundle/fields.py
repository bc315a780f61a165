"""Reads the fields of a JSON object one by one, with types and ranges.

A field that is missing, of another type, out of range, or never asked for is an
error that names it with its whole path. Values are never echoed: a message about
hostile input must not carry it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ANY_NAME = re.compile(r"[^\0]+")


class FieldError(ValueError):
    """A field is missing, unknown or unacceptable; the message starts with its path."""


class Fields:
    """The fields of one JSON object; call `done` last, it refuses what was not read."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise FieldError(f"{path}: must be an object")
        self._values: dict[str, object] = dict(value)
        self._unread = set(self._values)
        self._path = "" if path == "bundle" else f"{path}."

    def done(self) -> None:
        """Refuse fields that nothing asked for."""
        if self._unread:
            shown = min(self._unread)
            name = shown if re.fullmatch(r"[A-Za-z0-9_]{1,40}", shown) else "(unprintable)"
            raise FieldError(f"{self._path}{name}: unknown field")

    def constant(self, name: str, expected: str) -> None:
        """Require the field to be exactly `expected`."""
        if self._take(name) != expected:
            raise FieldError(f"{self._path}{name}: must be {expected!r}")

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return a string that is one of `allowed`."""
        value = self._take(name)
        if not isinstance(value, str) or value not in allowed:
            raise FieldError(f"{self._path}{name}: must be one of {', '.join(allowed)}")
        return value

    def text(self, name: str, pattern: re.Pattern[str], max_chars: int = 256) -> str:
        """Return a string that `pattern` matches in full."""
        value = self._text(name, max_chars)
        if pattern.fullmatch(value) is None:
            raise FieldError(f"{self._path}{name}: not of the required form")
        return value

    def sha256(self, name: str) -> str:
        """Return a SHA-256 as 64 lower-case hexadecimal digits."""
        return self.text(name, _SHA256, 64)

    def name(self, name: str) -> str:
        """Return a string of 1 to 255 characters, such as a file's name."""
        return self.text(name, _ANY_NAME, 255)

    def raw(self, name: str) -> object:
        """Return the field as it was parsed; the caller checks it."""
        return self._take(name)

    def optional_text(self, name: str, max_chars: int) -> str | None:
        """Return a string without NUL and in NFC, or None for null."""
        if self.is_null(name):
            return None
        value = self._text(name, max_chars)
        if "\0" in value:
            raise FieldError(f"{self._path}{name}: holds a NUL")
        return value

    def texts(self, name: str, max_items: int, max_chars: int) -> tuple[str, ...]:
        """Return an array of non-empty strings in NFC."""
        items: Sequence[object] = self._array(name, 0, max_items)
        for item in items:
            if not isinstance(item, str) or not 0 < len(item) <= max_chars or "\0" in item:
                raise FieldError(f"{self._path}{name}: must be strings of 1 to {max_chars}")
            if not unicodedata.is_normalized("NFC", item):
                raise FieldError(f"{self._path}{name}: must be in Unicode normal form C")
        return tuple(str(item) for item in items)

    def integer(self, name: str, low: int, high: int) -> int:
        """Return an integer in [low, high]; a boolean is none."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise FieldError(f"{self._path}{name}: must be an integer from {low} to {high}")
        return value

    def number(
        self,
        name: str,
        low: float,
        high: float,
        *,
        above_low: bool = False,
        below_high: bool = False,
    ) -> float:
        """Return a number in [low, high]; either end may be excluded."""
        value = self._take(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise FieldError(f"{self._path}{name}: must be a number")
        outside = not low <= value <= high
        if outside or (above_low and value == low) or (below_high and value == high):
            left, right = "(" if above_low else "[", ")" if below_high else "]"
            raise FieldError(f"{self._path}{name}: must be in {left}{low}, {high}{right}")
        return float(value)

    def boolean(self, name: str) -> bool:
        """Return true or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise FieldError(f"{self._path}{name}: must be true or false")
        return value

    def has(self, name: str) -> bool:
        """Tell whether the field is there; only asking for it counts as reading it."""
        return name in self._values

    def is_null(self, name: str) -> bool:
        """Tell whether the field is null; a null counts as read."""
        if name not in self._values:
            raise FieldError(f"{self._path}{name}: missing")
        if self._values[name] is None:
            self._unread.discard(name)
            return True
        return False

    def nested(self, name: str) -> Fields:
        """Return a nested object."""
        return Fields(self._take(name), f"{self._path}{name}")

    def nested_list(self, name: str, min_items: int, max_items: int) -> list[Fields]:
        """Return an array of objects."""
        items = self._array(name, min_items, max_items)
        return [Fields(item, f"{self._path}{name}[{i}]") for i, item in enumerate(items)]

    def _array(self, name: str, min_items: int, max_items: int) -> list[object]:
        value = self._take(name)
        if not isinstance(value, list) or not min_items <= len(value) <= max_items:
            raise FieldError(
                f"{self._path}{name}: must be an array of {min_items} to {max_items} items"
            )
        return value

    def _text(self, name: str, max_chars: int) -> str:
        value = self._take(name)
        if not isinstance(value, str) or len(value) > max_chars:
            raise FieldError(f"{self._path}{name}: must be a string of at most {max_chars}")
        return value

    def _take(self, name: str) -> object:
        if name not in self._values:
            raise FieldError(f"{self._path}{name}: missing")
        self._unread.discard(name)
        return self._values[name]
