"""The epsilon(delta) curve as a chart: one line for each accountant, a dot for the claim."""

from __future__ import annotations

import math

from casemate.pages.axis import Axis, tick_text, value_axis
from casemate.pages.chart import SPAN, frame, height
from casemate.pages.markup import Markup, element, join
from trainer.privacy.sections import Curve

_TITLE = "Epsilon by delta"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Points = list[tuple[float, float]]


def epsilon_chart(curve: Curve, delta: float, epsilon: float) -> Markup | None:
    """Return the chart; None where there are too few points to draw.

    Args:
        curve: what the accountants say.
        delta: of the claim.
        epsilon: of the claim.
    """
    lines = {
        "PLD (the claim)": (_points(curve, curve.pld), "line tone1"),
        "RDP": (_points(curve, curve.rdp), "line tone2"),
        "PRV": (_points(curve, curve.prv), "diagonal"),
    }
    drawn = {name: line for name, line in lines.items() if len(line[0]) > 1}
    if not drawn:
        return None
    # The largest epsilons belong to deltas nobody asks for; twice the claim is enough.
    highest = max(2 * epsilon, min(y for points, _ in drawn.values() for _, y in points))
    across = _powers([delta, *(x for points, _ in drawn.values() for x, _ in points)])
    up = value_axis([0.0, highest], from_zero=True)
    content = join(
        [
            *(
                _path([p for p in line if p[1] <= up.high], across, up, kind)
                for line, kind in drawn.values()
            ),
            _dot(delta, epsilon, across, up),
        ]
    )
    plot = frame(
        content,
        across,
        up,
        across_texts=[_power(tick) for tick in across.ticks],
        up_texts=tick_text(up),
        described=f"{_TITLE}: {epsilon:.4g} at {delta:.2g}",
    )
    keys = (_key(name, kind) for name, (_, kind) in drawn.items())
    caption = element(
        "figcaption",
        element("span", _TITLE, class_="title"),
        element("span", *keys, class_="legend"),
    )
    return element("figure", caption, plot, class_="chart tall")


def _points(curve: Curve, values: tuple[float | None, ...]) -> Points:
    pairs = zip(curve.deltas, values, strict=True)
    return [(delta, value) for delta, value in pairs if value is not None]


def _powers(deltas: list[float]) -> Axis:
    """Return a logarithmic axis with whole powers of ten as ticks."""
    low, high = math.floor(math.log10(min(deltas))), math.ceil(math.log10(max(deltas)))
    high = max(high, low + 1)
    every = max(1, math.ceil((high - low) / 6))
    ticks = tuple(10.0**power for power in range(low, high + 1, every))
    return Axis(10.0**low, 10.0**high, ticks, logarithmic=True)


def _power(tick: float) -> str:
    return "10" + str(round(math.log10(tick))).translate(_SUPERSCRIPTS)


def _path(points: Points, across: Axis, up: Axis, kind: str) -> Markup | None:
    if len(points) < 2:
        return None
    places = (f"{SPAN * across.position(x):.1f} {height(up, y):.1f}" for x, y in points)
    return element("path", d="M" + "L".join(places), class_=kind, style="fill:none")


def _dot(delta: float, epsilon: float, across: Axis, up: Axis) -> Markup:
    hint = element("title", f"the claim: epsilon {epsilon:.4g} at delta {delta:.2g}")
    place = f"M{SPAN * across.position(delta):.1f} {height(up, epsilon):.1f}h0"
    return element("path", hint, d=place, class_="dot tone1")


def _key(name: str, kind: str) -> Markup:
    tone = kind.rsplit(" ", 1)[-1]
    if tone == "diagonal":
        return element("span", f"- - {name}")
    return element("span", name, class_=f"key {tone}")
