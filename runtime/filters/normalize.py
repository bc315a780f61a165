"""The form of a text that rules are matched against.

Each character is mapped by itself: compatibility decomposition (NFKD), removal of
combining accents and of everything invisible (format characters, variation
selectors, tag characters, fillers, control characters), case folding, digits of
any script to ASCII, and look-alikes of Latin letters to Latin. Then each run of
white space becomes one space.

Because the map looks at one character at a time and white space needs one bit of
memory, the form of a text does not depend on how the text was cut into pieces:
that is what lets a stream be filtered exactly like the whole text.

Rules match the UTF-8 bytes of this form. A *unit* is one visible character of the
original together with the invisible ones after it; redaction removes whole units.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.filters.confusables import CONFUSABLES

_SPACE = " "
# Invisible, yet not of category Cf or Cc: joiners, fillers and selectors.
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
_INVISIBLE = frozenset({*map(ord, _FILLERS), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)})
_REMOVED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def _strip(char: str) -> bool:
    code = ord(char)
    if code in _INVISIBLE or unicodedata.category(char) in _REMOVED_CATEGORIES:
        return True
    return unicodedata.category(char) == "Mn" and unicodedata.combining(char) != 0


def fold_char(char: str) -> str:
    """Return the form of one character: "" when invisible, " " for white space."""
    if char.isspace():
        return _SPACE
    if ord(char) in _INVISIBLE:
        return ""
    text = unicodedata.normalize("NFKD", char)
    text = unicodedata.normalize("NFKD", text.casefold())
    folded: list[str] = []
    for part in text:
        if part.isspace():
            folded.append(_SPACE)
        elif not _strip(part):
            digit = unicodedata.decimal(part, None)
            folded.append(str(digit) if digit is not None else CONFUSABLES.get(part, part))
    form = "".join(folded).casefold()
    # A character such as U+00A8 decomposes into a space and an accent.
    return _SPACE if form and not form.strip() else form


class _Table(dict[int, str]):
    """`fold_char` by code point, filled as characters are met (at most Unicode's size)."""

    def __missing__(self, code: int) -> str:
        form = fold_char(chr(code))
        self[code] = form
        return form


_TABLE = _Table()


def normalize(text: str) -> str:
    """Return the form of a whole text. Linear time, mostly in C."""
    folded = text.translate(_TABLE)
    if "  " in folded:
        kept = _SPACE.join(part for part in folded.split(_SPACE) if part)
        head = _SPACE if folded[0] == _SPACE else ""
        tail = _SPACE if folded[-1] == _SPACE and kept else ""
        folded = head + kept + tail
    return folded


@dataclass(slots=True)
class Unit:
    """One visible character of the original, with the invisible ones after it.

    Attributes:
        text: the original characters.
        start, end: its range in the UTF-8 bytes of the normalised text. Both are
            equal only for invisible characters before the first visible one.
    """

    text: str
    start: int
    end: int


class Normalizer:
    """Normalises a text that arrives in pieces, keeping the way back to it."""

    def __init__(self) -> None:
        self._after_space = False

    def feed(self, text: str) -> Iterator[tuple[str, bytes]]:
        """Yield each character of `text` with its normalised bytes (b"" joins the unit before)."""
        for char in text:
            form = _TABLE[ord(char)]
            if self._after_space:
                form = form.lstrip(_SPACE)
            if form:
                self._after_space = form[-1] == _SPACE
            # Runs inside one character's form, as in U+FDFA, are single spaces already.
            yield char, form.encode()


def units_of(text: str) -> list[Unit]:
    """Cut a whole text into its units. Slow (a Python loop): only for texts that matched."""
    units: list[Unit] = []
    position = 0
    for char, form in Normalizer().feed(text):
        if form or not units:
            units.append(Unit(char, position, position + len(form)))
            position += len(form)
        else:
            units[-1].text += char
    return units
