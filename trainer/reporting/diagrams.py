"""Diagrams of an evaluation: reliability, confusion matrix, figures per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from casemate.pages import numbers
from casemate.pages.axis import linear_axis
from casemate.pages.chart import SPAN, frame
from casemate.pages.markup import Markup, element, join, table
from trainer.evaluation.metrics import LabelFigures, ReliabilityBin

# A larger matrix is no longer read as a picture: the commonest mistakes are listed.
_MATRIX_LABELS = 20
_MISTAKES = 20
# The tint of a full cell: text stays readable over it, light and dark.
_STRONGEST_TINT = 0.5


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> Markup | None:
    """Return how often predictions of each confidence were right, beside the diagonal."""
    total = sum(one.count for one in bins)
    if not total:
        return None
    axis = linear_axis(0.0, 1.0)
    diagonal = element("line", x1=0, y1=SPAN, x2=SPAN, y2=0, class_="diagonal")
    bars = join(_bar(one) for one in bins if one.count)
    words = [f"{tick:.1f}" for tick in axis.ticks]
    plot = frame(
        join((bars, diagonal)),
        axis,
        axis,
        across_texts=words,
        up_texts=words,
        described="Reliability diagram: share of right predictions by confidence",
    )
    most = max(one.count for one in bins)
    counts = join(
        element(
            "span",
            style=f"height:{100 * one.count / most:.1f}%",
            title=f"{one.count:,} predictions with confidence {one.low:.2f} to {one.high:.2f}",
        )
        for one in bins
    )
    legend = element(
        "span",
        element("span", "share that was right", class_="key tone1"),
        element("span", "distance to confidence", class_="key tone2"),
        class_="legend",
    )
    caption = element("figcaption", element("span", "Reliability", class_="title"), legend)
    foot = element("p", f"confidence · below: how many of {total:,} predictions", class_="axisname")
    histogram = element("div", counts, class_="histogram", aria_hidden="true")
    return element("figure", caption, plot, histogram, foot, class_="chart square")


def _bar(one: ReliabilityBin) -> Markup:
    left, width = SPAN * one.low, SPAN * (one.high - one.low)
    hint = element(
        "title",
        f"{one.count:,} predictions: mean confidence {one.confidence:.3f}, "
        f"{numbers.percent(one.accuracy)} right",
    )
    low, high = sorted((one.accuracy, one.confidence))
    height = f"{SPAN * (1 - one.accuracy):.1f}"
    return element(
        "g",
        hint,
        _rectangle(left, width, 0.0, low, "bar"),
        _rectangle(left, width, low, high, "gap"),
        element("path", d=f"M{left + 3:.1f} {height}h{width - 6:.1f}", class_="line tone1"),
    )


def _rectangle(left: float, width: float, low: float, high: float, kind: str) -> Markup:
    return element(
        "rect",
        x=f"{left + 3:.1f}",
        y=f"{SPAN * (1 - high):.1f}",
        width=f"{max(0.0, width - 6):.1f}",
        height=f"{SPAN * (high - low):.1f}",
        class_=kind,
    )


def confusion_table(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup | None:
    """Return the matrix of true and predicted labels, or its commonest mistakes."""
    if not labels or len(confusion) != len(labels):
        return None
    if len(labels) > _MATRIX_LABELS:
        return _mistakes(labels, confusion)
    heading = ["true ↓ predicted →", *(element("bdi", label) for label in labels)]
    rows = []
    for true, (label, row) in enumerate(zip(labels, confusion, strict=True)):
        total = sum(row) or 1
        cells = (_cell(cell, cell / total, at == true) for at, cell in enumerate(row))
        rows.append([element("bdi", label), *cells])
    caption = element("figcaption", element("span", "Confusion matrix", class_="title"))
    return element("figure", caption, table(heading, rows, class_="numbers matrix"))


def _cell(value: int, share: float, right: bool) -> Markup:
    # Mistakes have the second colour, so that the eye finds them off the diagonal.
    tone = 1 if right else 2
    tint = f"background:rgba(var(--tone{tone}-rgb),{_STRONGEST_TINT * share:.3f})"
    return element("span", f"{value:,}", class_="cell", style=tint, title=numbers.percent(share))


def _mistakes(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup:
    pairs = [
        (count, true, predicted)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    rows = [
        [
            join((element("bdi", labels[true]), " taken for ", element("bdi", labels[predicted]))),
            f"{count:,}",
            numbers.percent(count / (sum(confusion[true]) or 1)),
        ]
        for count, true, predicted in pairs[:_MISTAKES]
    ]
    caption = element("figcaption", element("span", "Commonest mistakes", class_="title"))
    body = table(["mistake", "times", "of the true label"], rows, class_="numbers")
    return element("figure", caption, body)


def label_table(figures: Mapping[str, LabelFigures]) -> Markup | None:
    """Return precision, recall and F1 of each label."""
    if not figures:
        return None
    rows = [
        [
            element("bdi", label),
            _meter(one.precision),
            _meter(one.recall),
            _meter(one.f1),
            f"{one.support:,}",
            f"{one.predicted:,}",
        ]
        for label, one in figures.items()
    ]
    heading = ["label", "precision", "recall", "F1", "true", "predicted"]
    return table(heading, rows, class_="numbers meters")


def _meter(share: float) -> Markup:
    style = f"--share:{100 * share:.1f}%"
    return element("span", numbers.percent(share), class_="meter", style=style)
