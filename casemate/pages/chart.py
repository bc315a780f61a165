"""Line charts as HTML with inline SVG, readable at any width.

The SVG is stretched over its box (strokes keep their width), while ticks and legends
are HTML text placed in percent: so a chart on a telephone has the same letters as on
paper, without a script. Each chart has its figures in words for a screen reader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from casemate.pages import numbers
from casemate.pages.axis import Axis, steps_axis, tick_text, value_axis
from casemate.pages.markup import Child, Markup, element, join

Point = tuple[float, float]

# The SVG's own units; the box may have any shape.
SPAN = 1000
# More points than a screen has columns only make the file larger.
_MOST_POINTS = 600
# Series with fewer points are drawn as they are; more are smoothed, the raw ones faint.
_SMOOTH_FROM = 20


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: shown in the legend.
        points: (step, value), by step; values that are no finite numbers leave gaps.
        tone: 1 or 2: which of the page's two colours.
        smooth: draw a smoothed curve over the raw one if there are many points.
        dots: mark each point.
        remark: added to the legend, such as the best value.
    """

    name: str
    points: Sequence[Point]
    tone: int = 1
    smooth: bool = False
    dots: bool = False
    remark: str = ""


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    from_zero: bool = False,
    text: Callable[[float], str] = numbers.figure,
    tall: bool = False,
) -> Markup | None:
    """Return a chart of curves over steps; None if no curve has a finite value."""
    shown = [(one, [point for point in one.points if math.isfinite(point[1])]) for one in series]
    shown = [(one, points) for one, points in shown if points]
    if not shown:
        return None
    steps = [step for _, points in shown for step, _ in points]
    # From zero, so that the charts of a run stand alike; not where that wastes half.
    across = steps_axis(0 if 2 * min(steps) <= max(steps) else min(steps), max(steps))
    up = value_axis([value for _, points in shown for _, value in points], from_zero=from_zero)
    curves = join(_curve(one, points, across, up, text) for one, points in shown)
    said = "; ".join(f"{one.name} ends at {text(points[-1][1])}" for one, points in shown)
    plot = frame(
        curves,
        across,
        up,
        across_texts=tick_text(across),
        up_texts=tick_text(up),
        described=f"{title} over steps {steps[0]:g} to {max(steps):g}: {said}",
    )
    legend = element("span", *(_key(one, points, text) for one, points in shown), class_="legend")
    caption = element("figcaption", element("span", title, class_="title"), legend)
    return element("figure", caption, plot, class_="chart tall" if tall else "chart")


def frame(
    content: Child,
    across: Axis,
    up: Axis,
    *,
    across_texts: Sequence[str],
    up_texts: Sequence[str],
    described: str,
) -> Markup:
    """Return a plot: content (SVG in SPAN units, y down) within labelled axes."""
    lines = [_line(0, height(up, tick), SPAN, height(up, tick), "grid") for tick in up.ticks]
    svg = element(
        "svg",
        *lines,
        content,
        viewBox=f"0 0 {SPAN} {SPAN}",
        preserveAspectRatio="none",
        role="img",
        aria_label=described,
    )
    ups = [
        element("span", text, style=f"bottom:{100 * up.position(tick):.2f}%")
        for tick, text in zip(up.ticks, up_texts, strict=True)
    ]
    acrosses = [
        element("span", text, style=f"left:{100 * across.position(tick):.2f}%")
        for tick, text in zip(across.ticks, across_texts, strict=True)
    ]
    return element(
        "div",
        element("div", *ups, class_="up", aria_hidden="true"),
        element("div", svg, class_="area"),
        element("div", *acrosses, class_="across", aria_hidden="true"),
        class_="plot",
    )


def height(up: Axis, value: float) -> float:
    """Return a value's y in SPAN units; SVG counts from the top."""
    return SPAN * (1 - up.position(value))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element(
        "line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind
    )


def _curve(
    one: Series, points: list[Point], across: Axis, up: Axis, text: Callable[[float], str]
) -> Markup:
    smoothed = one.smooth and len(points) >= _SMOOTH_FROM
    drawn = []
    if smoothed:
        drawn.append(_path(points, across, up, f"line tone{one.tone} faint"))
    strong = smooth(points) if smoothed else points
    drawn.append(_path(strong, across, up, f"line tone{one.tone}"))
    if one.dots or len(points) == 1:
        drawn += [_dot(point, across, up, one, text) for point in points]
    return join(drawn)


def _path(points: list[Point], across: Axis, up: Axis, kind: str) -> Markup:
    places = (
        f"{SPAN * across.position(step):.1f} {height(up, value):.1f}"
        for step, value in thin(points)
    )
    return element("path", d="M" + "L".join(places), class_=kind)


def _dot(point: Point, across: Axis, up: Axis, one: Series, text: Callable[[float], str]) -> Markup:
    # A line of no length with round ends stays a circle however the SVG is stretched.
    step, value = point
    place = f"M{SPAN * across.position(step):.1f} {height(up, value):.1f}h0"
    hint = element("title", f"{one.name} after step {step:,.0f}: {text(value)}")
    return element("path", hint, d=place, class_=f"dot tone{one.tone}")


def _key(one: Series, points: list[Point], text: Callable[[float], str]) -> Markup:
    last = smooth(points)[-1][1] if one.smooth and len(points) >= _SMOOTH_FROM else points[-1][1]
    words = f"{one.name} {text(last)}".strip() + (f" ({one.remark})" if one.remark else "")
    return element("span", words, class_=f"key tone{one.tone}")


def smooth(points: Sequence[Point]) -> list[Point]:
    """Return the mean of each point and its neighbours, 3% of all but at least five.

    Windows are centred, so that a steep fall is not drawn late; at the start they shrink
    on both sides, and at the end they keep their earlier half.
    """
    reach = max(2, round(0.015 * len(points)))
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    result = []
    for at, (step, _) in enumerate(points):
        back = min(reach, at)
        first, last = at - back, min(at + back, len(points) - 1)
        result.append((step, (sums[last + 1] - sums[first]) / (last + 1 - first)))
    return result


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most about `most` points that keep each stretch's lowest and highest."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    kept: list[Point] = [points[0]]
    for start in range(1, len(points) - 1, stretch):
        part = points[start : min(start + stretch, len(points) - 1)]
        ends = {min(part, key=lambda one: one[1]), max(part, key=lambda one: one[1])}
        kept += sorted(ends)
    return [*kept, points[-1]]
