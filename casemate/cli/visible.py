"""Text of others made harmless for a terminal, a table and a log.

A terminal obeys escape sequences, and bidirectional controls make text read as what
it is not; a name that a client or a model chose may hold both. Here each such
character is written as its escape. Invariant: what these functions return holds no
character of the categories in `_CATEGORIES`, but for the line feeds (and, in
`visible`, tabs) of a text that has several lines.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

# Control (C0, DEL, C1), format (bidirectional and invisible), line and paragraph
# separators, lone surrogates.
_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})


def visible(text: str) -> str:
    """Return a text of several lines with its control and format characters as escapes."""
    return "".join(
        char if char in "\t\n" or not _is_hidden(char) else _escape(char) for char in text
    )


def one_line(text: str) -> str:
    """Return the text as a single line: as `visible`, line feeds and tabs included."""
    return "".join(_escape(char) if _is_hidden(char) else char for char in text)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON in which control and format characters are escapes: the same value.

    Other characters stay readable.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    # JSON has escaped C0 already, so a line feed here is one of its own.
    return "".join(
        json.dumps(char)[1:-1] if char != "\n" and _is_hidden(char) else char for char in text
    )


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _CATEGORIES


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
