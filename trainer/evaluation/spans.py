"""F1 of spans in tagged text, as CoNLL-2003 counts them.

Tags are "B-x" (begins), "I-x" (goes on), "O" (outside); "I-x" after anything but a tag
of x begins a span, as in the IOB1 scheme and conlleval. A span is right if its start,
end and kind are. Tags of any other scheme have no spans: `is_span_scheme` says so, and
callers give figures per tag alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from trainer.evaluation.metrics import LabelFigures, figures_of_counts

Span = tuple[int, int, str]


def is_span_scheme(labels: Iterable[str]) -> bool:
    """Whether labels are B-, I- and O, with at least one kind of span."""
    names = set(labels)
    kinds = {name for name in names if name[:2] in ("B-", "I-") and len(name) > 2}
    return bool(kinds) and names - kinds <= {"O"}


def spans_of(tags: Sequence[str]) -> set[Span]:
    """Return the spans of one text as (first word, word after the last, kind)."""
    spans: set[Span] = set()
    start, kind = 0, ""
    for at, tag in enumerate((*tags, "O")):
        new = tag[2:] if tag != "O" else ""
        goes_on = tag.startswith("I-") and new == kind
        if not goes_on:
            if kind:
                spans.add((start, at, kind))
            start, kind = at, new
    return spans


def span_figures(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> tuple[LabelFigures, dict[str, LabelFigures]]:
    """Return the figures over all spans (micro) and of each kind.

    Raises:
        ValueError: the number of texts or of words of a text differs.
    """
    hits: Counter[str] = Counter()
    support: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for number, (wanted_tags, given_tags) in enumerate(zip(truth, predicted, strict=True)):
        if len(wanted_tags) != len(given_tags):
            raise ValueError(f"text {number} has {len(wanted_tags)} and {len(given_tags)} tags")
        wanted, given = spans_of(wanted_tags), spans_of(given_tags)
        support.update(kind for _, _, kind in wanted)
        found.update(kind for _, _, kind in given)
        hits.update(kind for _, _, kind in wanted & given)
    each = {
        kind: figures_of_counts(hits[kind], support[kind], found[kind])
        for kind in sorted(support.keys() | found.keys())
    }
    return figures_of_counts(hits.total(), support.total(), found.total()), each
