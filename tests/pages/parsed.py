"""Reads a page as a strict reader would: balanced, known elements, text as it shows."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "br"}
# Everything the report may consist of: nothing that loads or runs anything.
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section",
    "div", "span", "p", "h1", "h2", "h3", "dl", "dt", "dd", "small", "figure", "figcaption",
    "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "pre", "code", "bdi", "br",
    "svg", "g", "line", "path", "rect",
}  # fmt: skip


class Parsed(HTMLParser):
    """A page, or a piece of one.

    Attributes:
        tags: every element's name, in order.
        attributes: (element, attribute, value) of all.
        text: the text of the page, style and attributes left out.
        problems: what a strict reader would object to.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.problems: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        if self._open:
            self.problems.append(f"never closed: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        if len(set(names)) != len(names):
            self.problems.append(f"an attribute twice in {tag}")
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ALLOWED:
            self.problems.append(f"element {tag}")
        if any(name.startswith("on") or name in ("src", "href", "action") for name in names):
            self.problems.append(f"attributes {names} of {tag}")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def handle_comment(self, data: str) -> None:
        self.problems.append("a comment")
