"""HTML built from elements, so that text cannot become markup.

`element` escapes every plain string it is given, as a child or as an attribute; only a
`Markup` value, which only this module makes from text, passes as it is. Characters that
HTML cannot hold (NUL and other controls, lone surrogates) become U+FFFD.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_VOID = frozenset({"br", "meta", "link", "hr"})
# Controls other than tab and newline, the noncharacters that validators refuse, and lone
# surrogates, which UTF-8 cannot encode.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]|["
    + "".join(chr(plane * 0x10000 + last) for plane in range(1, 17) for last in (0xFFFE, 0xFFFF))
    + "]"
)


class Markup(str):
    """A piece of finished HTML."""

    __slots__ = ()


Child = str | Markup | None
Attribute = str | float | None


def escape(text: str) -> Markup:
    """Return text as HTML that shows exactly it."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(_FORBIDDEN.sub("\ufffd", text), quote=True))


def join(parts: Iterable[Child]) -> Markup:
    """Return pieces one after the other; plain strings are escaped."""
    return Markup("".join(escape(part) for part in parts if part is not None))


def element(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """Return an element.

    Attribute names lose a trailing underscore (`class_`), and others become hyphens;
    None leaves an attribute or a child out.
    """
    opened = [tag]
    for name, value in attributes.items():
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            opened.append(f'{name.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    start = f"<{' '.join(opened)}>"
    if tag in _VOID:
        return Markup(start)
    return Markup(f"{start}{join(children)}</{tag}>")


def table(heading: Iterable[Child], rows: Iterable[Iterable[Child]], *, class_: str = "") -> Markup:
    """Return a table that scrolls by itself where the page is narrow.

    The first column heads its rows; `numbers` in `class_` aligns the others right.
    """
    head = element("tr", *(element("th", cell, scope="col") for cell in heading))
    body = []
    for row in rows:
        first, *rest = row
        cells = (element("td", cell) for cell in rest)
        body.append(element("tr", element("th", first, scope="row"), *cells))
    inner = element("table", element("thead", head), element("tbody", *body), class_=class_)
    return element("div", inner, class_="scroll")
