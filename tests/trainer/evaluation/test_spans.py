"""Spans of tagged text, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.spans import is_span_scheme, span_figures, spans_of

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ([], set()),
        (["O", "O"], set()),
        (["B-PER", "I-PER", "O"], {(0, 2, "PER")}),
        (["B-PER", "B-PER"], {(0, 1, "PER"), (1, 2, "PER")}),
        (["I-PER", "I-PER"], {(0, 2, "PER")}),
        (["B-PER", "I-LOC"], {(0, 1, "PER"), (1, 2, "LOC")}),
        (["O", "B-LOC", "I-LOC"], {(1, 3, "LOC")}),
    ],
)
def test_spans_of(tags: list[str], spans: set[tuple[int, int, str]]) -> None:
    assert spans_of(tags) == spans


def test_a_span_counts_only_whole() -> None:
    truth = [["B-PER", "I-PER", "O", "B-LOC"]]
    predicted = [["B-PER", "O", "O", "B-LOC"]]
    overall, each = span_figures(truth, predicted)
    assert (overall.precision, overall.recall, overall.f1) == (0.5, 0.5, 0.5)
    assert each["PER"].f1 == 0.0
    assert each["LOC"].f1 == 1.0


def test_spans_end_with_their_text() -> None:
    overall, _ = span_figures([["B-PER"], ["I-PER"]], [["B-PER"], ["I-PER"]])
    assert overall.support == 2


def test_texts_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="text 0 has 2 and 1 tags"):
        span_figures([["O", "O"]], [["O"]])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("O", "B-PER", "I-PER"), True),
        (("B-PER", "I-PER"), True),
        (("O",), False),
        (("NOUN", "VERB"), False),
        (("O", "B-PER", "NOUN"), False),
        (("B-", "O"), False),
    ],
)
def test_is_span_scheme(labels: tuple[str, ...], expected: bool) -> None:
    assert is_span_scheme(labels) is expected


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(TAGS), max_size=12), min_size=1, max_size=6))
def test_a_perfect_prediction_finds_every_span(texts: list[list[str]]) -> None:
    overall, each = span_figures(texts, texts)
    assert overall.support == overall.predicted == sum(len(spans_of(text)) for text in texts)
    assert all(one.f1 == 1.0 for one in each.values())


@settings(deadline=None)
@given(st.lists(st.sampled_from(TAGS), max_size=20))
def test_spans_cover_exactly_the_tagged_words(tags: list[str]) -> None:
    covered = [at for start, end, _ in spans_of(tags) for at in range(start, end)]
    assert sorted(covered) == [at for at, tag in enumerate(tags) if tag != "O"]
