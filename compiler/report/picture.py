"""The Pareto picture: speed against loss, the front drawn, the chosen point marked.

Loss runs along a logarithmic axis; what loses nothing stands at its left end, apart from
the logarithm. The same figure is drawn twice: in the page by `pareto_chart`, whose letters
are HTML, and by `picture` as an SVG file that stands alone in documents and follows the
reader's light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.pages.axis import Axis, linear_axis, tick_text
from casemate.pages.chart import SPAN, frame, height
from casemate.pages.markup import Markup, element, join
from compiler.report.entry import Entry
from compiler.report.record import Compilation
from compiler.tune.choose import loss_of
from security.files import write_atomic

_WIDTH, _HEIGHT = 760, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 46, 52
_KEY_LINE = 19
_LEAST_LOSS: Final = 1e-4
# Room for what loses nothing, left of the logarithm.
_ZERO_SHARE: Final = 0.08
_LEADS: Final = (1, 2, 5)
_STYLE: Final = """
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#667182}
.title{font-size:14px;font-weight:600;fill:#1f2733}.name{fill:#1f2733}
.grid{stroke:#e5e2dc}.front{fill:none;stroke:#2b6a86;stroke-width:2}
.point{fill:#9fb4c0}.on{fill:#2b6a86}.chosen{fill:none;stroke:#c4673d;stroke-width:2.5}
.bound{stroke:#c4673d;stroke-dasharray:4 4}.paper{fill:#ffffff}
@media (prefers-color-scheme:dark){text{fill:#97a1b0}.title,.name{fill:#e3e7ed}
.grid{stroke:#2b313b}.front{stroke:#6fb4d2}.point{fill:#4d5d6b}.on{fill:#6fb4d2}
.chosen,.bound{stroke:#e59b75}.paper{fill:#13161b}}
"""


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate in the picture."""

    loss: float
    gain: float
    label: str
    front: bool
    chosen: bool
    predicted: bool


@dataclass(frozen=True, slots=True)
class _LossAxis:
    """A logarithmic axis with a place for zero at its left end."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def position(self, value: float) -> float:
        if value < self.low:
            return 0.0
        share = math.log(min(value, self.high) / self.low) / math.log(self.high / self.low)
        return _ZERO_SHARE + (1 - _ZERO_SHARE) * share


def points_of(record: Compilation) -> list[Point]:
    """Return the timed candidates as points: loss, and speed by the reference's."""
    found = []
    for one in record.candidates:
        loss = loss_of(one.quality)
        if loss is None or not one.rates:
            continue
        digest = one.candidate.digest
        found.append(
            Point(
                loss,
                gain_of(record, one),
                one.candidate.label,
                digest in record.front,
                digest == record.chosen,
                one.predicted,
            )
        )
    return sorted(found, key=lambda point: (point.loss, point.gain))


def gain_of(record: Compilation, entry: Entry) -> float:
    """Return how many times the reference's speed a timed candidate has for the load."""
    logs = [math.log(entry.rates[name].ratio.median) for name in record.load_rates]
    return math.exp(sum(logs) / len(logs))


def pareto_chart(record: Compilation) -> Markup | None:
    """Return the picture as a figure of a page; None with fewer than two points."""
    points = points_of(record)
    if len(points) < 2:
        return None
    across, up = _axes(points, record)
    bound = _bound(record)
    content: list[Markup | None] = [_bound_line(bound, across)] if bound is not None else []
    content.append(_front_path(points, across, up))
    content += [_dot(one, across, up) for one in points]
    plot = frame(
        join(content),
        Axis(0.0, 1.0, tuple(across.position(tick) for tick in (0.0, *across.ticks))),
        up,
        across_texts=["0", *(f"{tick:g}" for tick in across.ticks)],
        up_texts=[f"{text}×" for text in tick_text(up)],
        described=_described(points, record),
    )
    keys = element(
        "span",
        element("span", "Pareto front", class_="key tone1"),
        element("span", "chosen", class_="key tone2"),
        class_="legend",
    )
    caption = element("figcaption", element("span", _title(record), class_="title"), keys)
    name = element(
        "p", f"{record.loss}, logarithmic; the broken line is what was promised", class_="axisname"
    )
    return element("figure", caption, plot, name, class_="chart tall")


def write_picture(path: Path, record: Compilation) -> None:
    """Write the picture as an SVG file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, picture(record).encode())


def picture(record: Compilation) -> str:
    """Return the picture as an SVG document that needs nothing else."""
    points = points_of(record)
    across, up = _axes(points, record)
    parts: list[Markup] = [
        element("rect", width="100%", height="100%", class_="paper"),
        element("text", _title(record), x=_LEFT, y=24, class_="title"),
    ]
    for tick, text in zip(up.ticks, tick_text(up), strict=True):
        y = _y(up.position(tick))
        parts.append(_segment(_LEFT, y, _WIDTH - _RIGHT, y, "grid"))
        parts.append(element("text", f"{text}×", x=_LEFT - 8, y=f"{y + 4:.1f}", text_anchor="end"))
    for tick in (0.0, *across.ticks):
        x = _x(across.position(tick))
        parts.append(
            element("text", f"{tick:g}", x=f"{x:.1f}", y=_HEIGHT - 30, text_anchor="middle")
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        element("text", f"{record.loss} (log)", x=middle, y=_HEIGHT - 10, text_anchor="middle")
    )
    bound = _bound(record)
    if bound is not None:
        x = _x(across.position(bound))
        parts.append(_segment(x, _TOP, x, _HEIGHT - _BOTTOM, "bound"))
    front = [one for one in points if one.front]
    places = [(_x(across.position(p.loss)), _y(up.position(p.gain))) for p in front]
    if len(places) > 1:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(element("polyline", points=line, class_="front"))
    for one in points:
        parts += _standing(one, across, up)
    parts += _key(front, across, up)
    svg = element(
        "svg",
        element("title", _described(points, record)),
        element("style", Markup(_STYLE)),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT + _KEY_LINE * len(front) + 12}",
        role="img",
    )
    return f"{svg}\n"


def _axes(points: Sequence[Point], record: Compilation) -> tuple[_LossAxis, Axis]:
    bound = _bound(record)
    losses = [one.loss for one in points if one.loss >= _LEAST_LOSS]
    losses += [bound] if bound is not None else []
    low = max(_LEAST_LOSS, min(losses, default=1e-3) * 0.7)
    high = max([*losses, 10 * low]) * 1.4
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [lead * 10.0**power for power in powers for lead in _LEADS]
    inside = tuple(round(tick, 12) for tick in ticks if low <= tick <= high)
    gains = [one.gain for one in points] or [1.0]
    return _LossAxis(low, high, inside), linear_axis(min(gains), max(gains))


def _bound(record: Compilation) -> float | None:
    """Return what is promised of the figure on the loss axis, where it bounds it."""
    chosen = record.entry(record.chosen).quality
    if chosen is not None and chosen.kl_mean is not None:
        return record.promise.max_kl
    if chosen is not None and chosen.spearman is not None:
        least = record.promise.min_spearman
        return None if least is None else 1.0 - least
    return record.promise.max_accuracy_drop


def _title(record: Compilation) -> str:
    how = "predicted" if record.predicted else "measured"
    load = {"prefill": "reading prompts", "size": "one client"}.get(
        record.load, f"{record.load} client{'' if record.load == '1' else 's'}"
    )
    return f"Speed against the reference, {load} ({how})"


def _described(points: Sequence[Point], record: Compilation) -> str:
    chosen = record.entry(record.chosen)
    gain, loss = gain_of(record, chosen), loss_of(chosen.quality)
    return (
        f"{_title(record)}: {len(points)} candidates; chosen is {chosen.candidate.label}, "
        f"{gain:.2f} times the reference's speed at {record.loss.lower()} {loss or 0.0:.3g}"
    )


def _front_path(points: Sequence[Point], across: _LossAxis, up: Axis) -> Markup | None:
    front = [one for one in points if one.front]
    if len(front) < 2:
        return None
    places = (f"{SPAN * across.position(p.loss):.1f} {height(up, p.gain):.1f}" for p in front)
    return element("path", d="M" + "L".join(places), class_="line tone1")


def _dot(one: Point, across: _LossAxis, up: Axis) -> Markup:
    place = f"M{SPAN * across.position(one.loss):.1f} {height(up, one.gain):.1f}h0"
    kind = "tone2" if one.chosen else "tone1"
    faint = None if one.front or one.chosen else "opacity:.35"
    return element("path", element("title", _hint(one)), d=place, class_=f"dot {kind}", style=faint)


def _bound_line(bound: float, across: _LossAxis) -> Markup:
    x = f"{SPAN * across.position(bound):.1f}"
    return element("line", x1=x, x2=x, y1=0, y2=SPAN, class_="diagonal")


def _hint(one: Point) -> str:
    how = ", predicted" if one.predicted else ""
    return f"{one.label}: {one.gain:.2f}×, {one.loss:.4g}{how}"


def _standing(one: Point, across: _LossAxis, up: Axis) -> list[Markup]:
    x, y = f"{_x(across.position(one.loss)):.1f}", f"{_y(up.position(one.gain)):.1f}"
    kind = "point on" if one.front else "point"
    found = [element("circle", element("title", _hint(one)), cx=x, cy=y, r=4.5, class_=kind)]
    if one.chosen:
        found.append(element("circle", cx=x, cy=y, r=9.0, class_="chosen"))
    return found


def _key(front: Sequence[Point], across: _LossAxis, up: Axis) -> list[Markup]:
    """Number the front's points, and say under the plot what each is: names are long."""
    found: list[Markup] = []
    for number, one in enumerate(front, 1):
        x, y = _x(across.position(one.loss)) - 8, _y(up.position(one.gain)) - 8
        found.append(
            element(
                "text",
                str(number),
                x=f"{x:.1f}",
                y=f"{y:.1f}",
                text_anchor="end",
                class_="name",
            )
        )
        said = f"{number}  {_hint(one)}{' (chosen)' if one.chosen else ''}"
        place = _HEIGHT + 8 + _KEY_LINE * (number - 1)
        found.append(element("text", said, x=_LEFT, y=place, class_="name"))
    return found


def _segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element(
        "line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
