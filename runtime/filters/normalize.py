"""The form of a text that rules are matched against.

Each character is mapped by itself: compatibility decomposition (NFKD), removal of
combining and enclosing marks and of everything invisible (format characters,
variation selectors, tag characters, fillers, blanks, control characters), case
folding, digits of any script to ASCII, and look-alikes of Latin letters to Latin.
Marks that spell vowels and consonants in the scripts of South and South-East Asia
stay, but only after a letter of their own script: anywhere else they are decoration.
Then each run of white space becomes one space.

White space is tab, line feed, vertical tab, form feed, carriage return and the
Unicode separators. Other control characters, U+0085 and U+001C to U+001F among
them, are removed: models read past them, so they must not part a word.

Because the map looks at one character at a time, and marks and white space need no
more memory than the last base character, the form of a text does not depend on how
the text was cut into pieces: that is what lets a stream be filtered exactly like
the whole text.

Rules match the UTF-8 bytes of this form. A *unit* is one visible character of the
original together with the invisible ones after it; redaction removes whole units.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.filters.confusables import CONFUSABLES

_SPACE = " "
_CONTROL_SPACES = "\t\n\v\f\r"
_SPACE_CATEGORIES = frozenset({"Zs", "Zl", "Zp"})
# Invisible or blank, yet not of a category that is removed: joiners, fillers, selectors.
_FILLERS = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    "\ufffc\U00016fe4\U0001bc9d\U0001d159"
)
_INVISIBLE = frozenset({*map(ord, _FILLERS), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)})
_REMOVED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Me"})
_PAGE_BITS = 8


def _strip(char: str) -> bool:
    category = unicodedata.category(char)
    if ord(char) in _INVISIBLE or category in _REMOVED_CATEGORIES:
        return True
    return category in ("Mn", "Mc") and unicodedata.combining(char) != 0


def _is_space(char: str) -> bool:
    # Not str.isspace(), which takes U+0085 and U+001C to U+001F in.
    return char in _CONTROL_SPACES or unicodedata.category(char) in _SPACE_CATEGORIES


def _decomposed(char: str) -> str:
    """Return the NFKD of a character, without the frame of an enclosed one."""
    text = unicodedata.normalize("NFKD", char)
    if len(text) > 2 and text[0] == "(" and text[-1] == ")":
        return text[1:-1]
    # "1." and "1," are single characters too.
    return text[:-1] if len(text) > 1 and text[0].isdigit() and text[-1] in ".," else text


def fold_char(char: str) -> str:
    """Return the form of one character: "" when invisible, " " for white space."""
    if _is_space(char):
        return _SPACE
    if _strip(char):
        return ""
    text = unicodedata.normalize("NFKD", _decomposed(char).casefold())
    folded: list[str] = []
    for part in text:
        if _is_space(part):
            folded.append(_SPACE)
        elif not _strip(part):
            digit = unicodedata.digit(part, None)
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


# The marks that can stay: they change no other character's form.
_MARKS = frozenset(
    char
    for char in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(char) == "Mn" and not _strip(char)
)
_MARK_CLASS = "".join(map(re.escape, sorted(_MARKS)))
_MARKED = re.compile(f"(^|[^{_MARK_CLASS}])([{_MARK_CLASS}]+)")


def _same_script(base: str, mark: str) -> bool:
    """Whether both are of one page of Unicode, which for these marks stands for a script."""
    return bool(base) and ord(base) >> _PAGE_BITS == ord(mark) >> _PAGE_BITS


def _kept_marks(found: re.Match[str]) -> str:
    base, marks = found.groups()
    return str(base) + "".join(mark for mark in marks if _same_script(base, mark))


@functools.cache
def _misplaced(page: int) -> re.Pattern[str]:
    """Return what finds a mark of a page after a character of another."""
    low, high = page << _PAGE_BITS, ((page + 1) << _PAGE_BITS) - 1
    marks = "".join(re.escape(mark) for mark in sorted(_MARKS) if low <= ord(mark) <= high)
    return re.compile(f"(?<![{chr(low)}-{chr(high)}])[{marks}]")


def _drop_misplaced(folded: str) -> str:
    pages = {ord(mark) >> _PAGE_BITS for mark in _MARKS.intersection(folded)}
    if any(_misplaced(page).search(folded) for page in pages):
        return _MARKED.sub(_kept_marks, folded)
    return folded


def normalize(text: str) -> str:
    """Return the form of a whole text. Linear time, mostly in C."""
    folded = text.translate(_TABLE)
    if not folded.isascii():
        folded = _drop_misplaced(folded)
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
        self._base = ""

    def feed(self, text: str) -> Iterator[tuple[str, bytes]]:
        """Yield each character of `text` with its normalised bytes (b"" joins the unit before)."""
        for char in text:
            form = _TABLE[ord(char)]
            if form.isascii():
                self._base = form[-1:] or self._base
            else:
                form = "".join(part for part in form if self._keeps(part))
            if self._after_space:
                form = form.lstrip(_SPACE)
            if form:
                self._after_space = form[-1] == _SPACE
            # Runs inside one character's form, as in U+FDFA, are single spaces already.
            yield char, form.encode()

    def _keeps(self, part: str) -> bool:
        """Whether a character of a form stays; take it in as what marks may follow."""
        if part in _MARKS:
            return _same_script(self._base, part)
        self._base = part
        return True


def units_of(text: str) -> Iterator[Unit]:
    """Cut a whole text into its units. Slow (a Python loop): only for texts that matched."""
    begin, start, end = 0, 0, 0
    for index, (_, form) in enumerate(Normalizer().feed(text)):
        if form and index:
            yield Unit(text[begin:index], start, end)
            begin, start = index, end
        end += len(form)
    if text:
        yield Unit(text[begin:], start, end)
