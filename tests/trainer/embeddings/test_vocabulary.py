from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.embeddings.vocabulary import alias_table, keep_thresholds

counts_strategy = st.lists(st.integers(0, 10**9), min_size=1, max_size=200).filter(any)


def shares(table: np.ndarray) -> np.ndarray:
    """The exact chance of each word that a table stands for."""
    size = len(table)
    own = table[:, 0].astype(np.float64) / 2**32
    chance = np.zeros(size)
    np.add.at(chance, np.arange(size), own / size)
    np.add.at(chance, table[:, 1].astype(np.int64), (1 - own) / size)
    return chance


@given(counts_strategy)
def test_the_alias_table_has_the_shares_of_the_counts_to_the_three_quarters(counts):
    weights = np.array(counts, dtype=np.float64) ** 0.75
    assert shares(alias_table(np.array(counts))) == pytest.approx(
        weights / weights.sum(), rel=1e-6, abs=1e-8
    )


@given(counts_strategy)
def test_a_word_without_a_count_is_never_drawn(counts):
    assert not shares(alias_table(np.array(counts)))[np.array(counts) == 0].any()


def test_without_any_count_nothing_can_be_drawn():
    with pytest.raises(ValueError, match="nothing can be drawn"):
        alias_table(np.zeros(3, dtype=np.int64))


@given(counts_strategy, st.floats(1e-6, 1))
def test_rarer_words_stay_at_least_as_often(counts, subsample):
    array = np.array(sorted(value for value in counts if value), dtype=np.int64)
    keep = keep_thresholds(array, subsample).astype(np.int64)
    assert (np.diff(keep) <= 0).all()


def test_the_chance_to_stay_is_that_of_word2vec():
    counts = np.array([900_000, 99_000, 1_000])
    keep = keep_thresholds(counts, 1e-3)
    share = counts / counts.sum()
    expected = (np.sqrt(share / 1e-3) + 1) * 1e-3 / share
    assert keep[:2] / 2**32 == pytest.approx(expected[:2], rel=1e-6)
    assert keep[2] == 2**32 - 1


def test_a_threshold_of_zero_keeps_every_word():
    assert (keep_thresholds(np.array([1, 10**9]), 0) == 2**32 - 1).all()
