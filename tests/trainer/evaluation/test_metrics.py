"""Metrics against hand-computed values, naive loops and what must hold for any data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation import metrics

# Six texts, three classes; counted by hand.
TRUTH = np.array([0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 1, 1, 1, 0, 2])
CLASSES = 3

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


def arrays(values: Sequence[tuple[int, int]]) -> tuple[metrics.Integers, metrics.Integers]:
    truth, predicted = zip(*values, strict=True)
    return np.array(truth, dtype=np.int64), np.array(predicted, dtype=np.int64)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices() -> None:
    assert metrics.perplexity(math.log(50)) == pytest.approx(50)
    assert metrics.perplexity(0.0) == 1.0


def test_perplexity_beyond_floats_is_infinite() -> None:
    assert metrics.perplexity(1e6) == math.inf


def test_bits_per_byte() -> None:
    # One nat a token is 1.4427 bits; four bytes a token.
    assert metrics.bits_per_byte(1.0, 4.0) == pytest.approx(1.442695 / 4, rel=1e-6)
    assert metrics.bits_per_byte(math.log(256), 1.0) == pytest.approx(8.0)


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan])
def test_bits_per_byte_refuses_no_bytes(size: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        metrics.bits_per_byte(1.0, size)


def test_confusion_by_hand() -> None:
    confusion = metrics.confusion_matrix(TRUTH, PREDICTED, CLASSES)
    assert confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert metrics.accuracy(confusion) == pytest.approx(4 / 6)


def test_f1_by_hand() -> None:
    figures = metrics.label_figures(metrics.confusion_matrix(TRUTH, PREDICTED, CLASSES))
    assert [one.precision for one in figures] == pytest.approx([1 / 2, 2 / 3, 1.0])
    assert [one.recall for one in figures] == pytest.approx([1 / 2, 1.0, 1 / 2])
    assert [one.f1 for one in figures] == pytest.approx([1 / 2, 4 / 5, 2 / 3])
    assert [one.support for one in figures] == [2, 2, 2]
    assert [one.predicted for one in figures] == [2, 3, 1]
    assert metrics.macro_f1(figures) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)


def test_a_label_that_is_nowhere_does_not_count_in_the_mean() -> None:
    figures = metrics.label_figures(metrics.confusion_matrix(TRUTH, TRUTH, CLASSES + 1))
    assert figures[CLASSES] == metrics.LabelFigures(0.0, 0.0, 0.0, 0, 0)
    assert metrics.macro_f1(figures) == 1.0


def test_nothing_gives_zeros() -> None:
    empty = metrics.confusion_matrix(np.array([], dtype=int), np.array([], dtype=int), 2)
    assert metrics.accuracy(empty) == 0.0
    assert metrics.macro_f1(metrics.label_figures(empty)) == 0.0
    assert (
        metrics.expected_calibration_error(
            metrics.reliability_bins(np.array([]), np.array([], dtype=bool))
        )
        == 0.0
    )


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [([0, 1], [0], "shapes"), ([0, 2], [0, 1], "true label"), ([0, 1], [0, -1], "predicted label")],
)
def test_misaligned_or_foreign_labels_are_refused(
    truth: list[int], predicted: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(np.array(truth), np.array(predicted), 2)


@settings(deadline=None)
@given(pairs)
def test_figures_match_naive_loops(values: list[tuple[int, int]]) -> None:
    confusion = metrics.confusion_matrix(*arrays(values), 4)
    figures = metrics.label_figures(confusion)
    for label in range(4):
        hits = sum(1 for true, guess in values if true == guess == label)
        there = sum(1 for true, _ in values if true == label)
        given_ = sum(1 for _, guess in values if guess == label)
        precision = hits / given_ if given_ else 0.0
        recall = hits / there if there else 0.0
        assert figures[label].precision == pytest.approx(precision)
        assert figures[label].recall == pytest.approx(recall)
        harmonic = 2 * precision * recall / (precision + recall) if hits else 0.0
        assert figures[label].f1 == pytest.approx(harmonic)
    right = sum(1 for true, guess in values if true == guess)
    assert metrics.accuracy(confusion) == pytest.approx(right / len(values))
    assert metrics.micro_f1(confusion) == pytest.approx(right / len(values))


@settings(deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_order_does_not_matter(values: list[tuple[int, int]], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = metrics.confusion_matrix(*arrays(values), 4)
    assert (first == metrics.confusion_matrix(*arrays(shuffled), 4)).all()


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # Newcombe 1998, table I, method 3 (Wilson without continuity correction).
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_as_published(successes: int, total: int, low: float, high: float) -> None:
    assert metrics.wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None)
@given(st.integers(0, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share(counts: tuple[int, int]) -> None:
    successes, total = counts
    low, high = metrics.wilson_interval(successes, total)
    assert 0.0 <= low <= high <= 1.0
    if total:
        assert low <= successes / total <= high


def test_wilson_interval_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match="no share"):
        metrics.wilson_interval(3, 2)


def test_calibration_by_hand() -> None:
    # Two predictions at 0.95 of which one is right, two at 0.55 which both are.
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    bins = metrics.reliability_bins(confidence, np.array([True, False, True, True]), bins=10)
    assert [one.count for one in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert (bins[9].confidence, bins[9].accuracy) == pytest.approx((0.95, 0.5))
    # (2 * |0.95 - 0.5| + 2 * |0.55 - 1|) / 4
    assert metrics.expected_calibration_error(bins) == pytest.approx(0.45)


def test_bins_take_their_upper_edge() -> None:
    bins = metrics.reliability_bins(np.array([0.0, 0.5, 1.0]), np.array([True] * 3), bins=2)
    assert [one.count for one in bins] == [2, 1]


def test_a_confidence_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        metrics.reliability_bins(np.array([1.5]), np.array([True]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80))
def test_calibration_matches_a_naive_loop(values: list[tuple[float, bool]]) -> None:
    confidence = np.array([one for one, _ in values])
    correct = np.array([one for _, one in values])
    bins = metrics.reliability_bins(confidence, correct)
    assert sum(one.count for one in bins) == len(values)
    error = 0.0
    for number in range(15):
        inside = [
            (sure, right)
            for sure, right in values
            if min(14, max(0, math.ceil(sure * 15) - 1)) == number
        ]
        if inside:
            sure_mean = sum(sure for sure, _ in inside) / len(inside)
            right_mean = sum(right for _, right in inside) / len(inside)
            error += len(inside) / len(values) * abs(sure_mean - right_mean)
    assert metrics.expected_calibration_error(bins) == pytest.approx(error, abs=1e-12)


def test_spearman_by_hand() -> None:
    # No ties: 1 - 6 * sum(d^2) / (n (n^2 - 1)), d = 1, 1, 0, 0 -> 0.8.
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 3.0, 4.0])
    assert metrics.spearman(first, second) == pytest.approx(0.8)


def test_spearman_of_ties_is_pearson_of_mean_ranks() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 over sqrt(4.5 * 5).
    found = metrics.spearman(np.array([1.0, 5.0, 5.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))


def test_spearman_of_a_constant_or_of_nothing_is_zero() -> None:
    assert metrics.spearman(np.ones(3), np.arange(3.0)) == 0.0
    assert metrics.spearman(np.array([]), np.array([])) == 0.0


def test_spearman_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        metrics.spearman(np.array([1.0, math.nan]), np.array([1.0, 2.0]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=40))
def test_spearman_is_symmetric_and_ignores_monotone_maps(values: list[tuple[int, int]]) -> None:
    first = np.array([float(one) for one, _ in values])
    second = np.array([float(one) for _, one in values])
    found = metrics.spearman(first, second)
    assert -1.0 <= found <= 1.0
    assert metrics.spearman(second, first) == pytest.approx(found, abs=1e-12)
    assert metrics.spearman(first**3 + 7, second) == pytest.approx(found, abs=1e-12)
    assert metrics.spearman(-first, second) == pytest.approx(-found, abs=1e-12)
