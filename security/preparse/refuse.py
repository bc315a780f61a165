"""How a pre-parser refuses: one typed error, and names of the file made printable."""

from __future__ import annotations

from typing import NoReturn

from security.errors import UnsafeModelError

# A name out of a hostile file is shown at most this long.
_SHOWN_CHARACTERS = 80


def refuse(reason: str, message: str) -> NoReturn:
    """Raise UnsafeModelError with a stable `reason` word and a sentence for people."""
    raise UnsafeModelError(reason, message)


def shown(name: str | bytes) -> str:
    """Return a name from the file as printable ASCII in quotes, cut when it is long."""
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
    return ascii(cut)
