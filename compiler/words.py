"""Words that come from outside, such as arguments and paths, as records can hold them."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Return a text that a record takes: composed (NFC), no half surrogates, not empty.

    What a path has that is no UTF-8 comes out as escapes.
    """
    whole = text.encode("utf-8", "backslashreplace").decode()
    return unicodedata.normalize("NFC", whole) or "''"
