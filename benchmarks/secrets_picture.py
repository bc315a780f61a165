"""Draws the result of `benchmarks.secrets` as an SVG that stands alone.

One dot is one secret: its height is how many bits the model tells of it. A filled dot is
a secret that the model completes by itself; a ring is one that it does not. The picture has
its own two palettes, for light and for dark pages, and is drawn from the result alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from casemate.pages.markup import Markup, element, join

_WIDTH, _HEIGHT = 860, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 92, 92
_RUNS = {
    "ordinary": ("ordinary finetuning", "one"),
    "record": ("epsilon 3, unit record", "two"),
    "user": ("epsilon 3, unit user", "three"),
}
_TICK_BITS = 4
_RADIUS = 5.0
# Mean exposure of a secret that the model never saw: 1 / ln 2.
_CHANCE_BITS = 1 / math.log(2)
_STYLE = """
text{font:14px system-ui,sans-serif;fill:#1c1f24}.small{font-size:12.5px;fill:#5a616b}
.title{font-size:17px;font-weight:600}.grid{stroke:#dfe3e8}
.limit{stroke:#5a616b;stroke-dasharray:5 4}.page{fill:#fff}
.one{stroke:#c2410c;color:#c2410c}.two{stroke:#1d4ed8;color:#1d4ed8}
.three{stroke:#0f766e;color:#0f766e}
.ring{fill:none;stroke-width:2}.full{fill:currentColor;stroke-width:2}.said{fill:currentColor;stroke:none}
@media(prefers-color-scheme:dark){text{fill:#e6e9ee}.small{fill:#a3abb6}.grid{stroke:#343a43}
.limit{stroke:#a3abb6}.page{fill:#15181d}.one{stroke:#fb923c;color:#fb923c}
.two{stroke:#93b4ff;color:#93b4ff}.three{stroke:#5eead4;color:#5eead4}}
"""


def draw_picture(result: dict[str, Any]) -> str:
    """Return the SVG of a result.

    Raises:
        KeyError: it is no result of `benchmarks.secrets`.
    """
    rows = {row["run"]: row for row in result["rows"] if row["run"] in _RUNS}
    most = math.log2(result["candidates"])
    groups = [one["copies"] for one in rows["ordinary"]["secrets"]]
    svg = element(
        "svg",
        element("style", Markup(_STYLE)),
        element("title", _described(rows)),
        element("rect", class_="page", width=_WIDTH, height=_HEIGHT),
        element("text", "What a decoder tells of planted secrets", x=_LEFT, y=30, class_="title"),
        _legend(),
        _axis(most),
        *(_group(rows, number, len(groups), most) for number in range(len(groups))),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    return f"{svg}\n"


def _described(rows: dict[str, Any]) -> str:
    said = []
    for name, row in rows.items():
        label, _ = _RUNS[name]
        completed = sum(one["completed"] for one in row["secrets"])
        number = sum(one["secrets"] for one in row["secrets"] if one["copies"])
        said.append(f"{label}: {completed} of {number} planted secrets completed")
    return "; ".join(said)


def _legend() -> Markup:
    drawn, x = [], float(_LEFT)
    for label, kind in _RUNS.values():
        drawn += [_dot(x + 6, 54, kind, full=True), _text(label, x + 18, 59)]
        x += 42 + 7.3 * len(label)
    note = (
        "filled: the model completes the code; ring: it does not. "
        "Dashed: the whole code, and chance"
    )
    return join([*drawn, _text(note, _LEFT, 80, class_="small")])


def _axis(most: float) -> Markup:
    drawn = []
    for tick in range(0, math.ceil(most) + 1, _TICK_BITS):
        y = _height(tick, most)
        drawn += [
            element("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y),
            _text(str(tick), _LEFT - 10, y + 5, anchor="end", class_="small"),
        ]
    for bits in (most, _CHANCE_BITS):
        y = _height(bits, most)
        drawn.append(element("line", class_="limit", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = element(
        "text",
        "exposure, bits",
        transform=f"translate(18 {middle:g}) rotate(-90)",
        text_anchor="middle",
        class_="small",
    )
    return join([*drawn, turned])


def _group(rows: dict[str, Any], number: int, groups: int, most: float) -> Markup:
    """Draw the secrets of one number of copies, a lane for each run."""
    wide = (_WIDTH - _LEFT - _RIGHT) / groups
    left = _LEFT + number * wide
    lane = wide / (len(_RUNS) + 1)
    drawn = []
    if number:
        drawn.append(
            element("line", class_="grid", x1=left, x2=left, y1=_TOP, y2=_HEIGHT - _BOTTOM + 68)
        )
    for index, (name, row) in enumerate(rows.items()):
        _, kind = _RUNS[name]
        one = row["secrets"][number]
        x = left + (index + 1) * lane
        drawn += list(_dots(one, x, lane, kind, most))
        said = f"{one['completed']}/{one['secrets']}"
        text = element(
            "text", said, x=x, y=_HEIGHT - _BOTTOM + 44, text_anchor="middle", class_="said"
        )
        drawn.append(element("g", text, class_=kind))
    copies = rows["ordinary"]["secrets"][number]["copies"]
    label = {0: "in no record", 1: "in 1 record"}.get(copies, f"in {copies} records")
    middle = left + wide / 2
    bottom = _HEIGHT - _BOTTOM
    drawn += [
        _text(label, middle, bottom + 24, anchor="middle"),
        _text("completed", middle, bottom + 64, anchor="middle", class_="small"),
    ]
    return join(drawn)


def _dots(one: dict[str, Any], x: float, lane: float, kind: str, most: float) -> Iterator[Markup]:
    bits, completed = one["exposure_bits"], one["completed_each"]
    for place, (height, full) in enumerate(zip(bits, completed, strict=True)):
        # Side by side, so that dots of one height can be counted.
        aside = (place - (len(bits) - 1) / 2) * min(2 * _RADIUS, 0.9 * lane / len(bits))
        yield _dot(x + aside, _height(height, most), kind, full=full)


def _dot(x: float, y: float, kind: str, *, full: bool) -> Markup:
    shape = "full" if full else "ring"
    return element("circle", cx=round(x, 1), cy=round(y, 1), r=_RADIUS, class_=f"{kind} {shape}")


def _height(bits: float, most: float) -> float:
    top = math.ceil(most)
    return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - bits / top), 1)


def _text(
    words: str, x: float, y: float, *, anchor: str = "start", class_: str | None = None
) -> Markup:
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=class_)
