from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.batch import IGNORED
from trainer.data.corruption import infill_spans, mask_tokens, random_spans, span_counts

MASK = 4
SPECIAL = (0, 1, 2, 3, 4)
VOCABULARY = 40
SENTINELS = tuple(range(1000, 1100))
END = 999

ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=80).map(
    lambda values: np.array(values, dtype=np.int64)
)
seeds = st.integers(0, 2**32 - 1)


def masked(tokens: np.ndarray, probability: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(
        tokens,
        mask=MASK,
        special=SPECIAL,
        vocabulary_size=VOCABULARY,
        probability=probability,
        rng=np.random.default_rng(seed),
    )


@given(ids, st.floats(0.01, 0.9), seeds)
def test_masking_changes_only_chosen_positions(
    tokens: np.ndarray, probability: float, seed: int
) -> None:
    before = tokens.copy()
    inputs, labels = masked(tokens, probability, seed)
    assert np.array_equal(tokens, before)
    chosen = labels != IGNORED
    assert np.array_equal(inputs[~chosen], tokens[~chosen])
    assert np.array_equal(labels[chosen], tokens[chosen])
    special = np.isin(tokens, SPECIAL)
    assert not (chosen & special).any()
    assert chosen.any() == (~special).any()
    # What replaces a token is the mask token or an ordinary one.
    assert np.isin(inputs[chosen], [MASK, *range(5, VOCABULARY)]).all()


def test_chosen_tokens_are_masked_replaced_and_kept_in_berts_shares() -> None:
    tokens = np.full(200_000, 7, dtype=np.int64)
    inputs, labels = masked(tokens, 0.15, 0)
    chosen = labels != IGNORED
    assert chosen.mean() == pytest.approx(0.15, abs=0.005)
    assert (inputs[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.01)
    drawn = inputs[chosen & (inputs != MASK) & (inputs != 7)]
    # One ordinary token of 35 is the original itself.
    assert drawn.size / chosen.sum() == pytest.approx(0.1 * 34 / 35, abs=0.01)
    assert set(drawn.tolist()) == set(range(5, VOCABULARY)) - {7}


@given(st.data(), seeds)
def test_spans_are_disjoint_and_have_the_stated_sizes(data: st.DataObject, seed: int) -> None:
    length = data.draw(st.integers(2, 60))
    noise = data.draw(st.integers(1, length - 1))
    spans = data.draw(st.integers(1, min(noise, length - noise + 1)))
    starts, lengths = random_spans(length, noise, spans, np.random.default_rng(seed))
    assert starts.size == lengths.size == spans
    assert lengths.min() >= 1
    assert lengths.sum() == noise
    ends = starts + lengths
    assert starts[0] >= 0
    assert ends[-1] <= length
    assert (starts[1:] > ends[:-1]).all()


def test_every_position_is_as_likely_to_be_noise() -> None:
    rng = np.random.default_rng(5)
    hits = np.zeros(12)
    for _ in range(6000):
        starts, lengths = random_spans(12, 4, 2, rng)
        for start, size in zip(starts, lengths, strict=True):
            hits[start : start + size] += 1
    # The edges have a neighbour less, so a little more or less; no position is left out.
    assert hits.min() / 6000 > 0.2
    assert hits.max() / 6000 < 0.5


@given(
    st.lists(st.integers(0, 900), min_size=2, max_size=120),
    st.floats(0.01, 0.9),
    st.floats(1, 8),
    st.integers(1, 100),
    st.sampled_from([END, None]),
    seeds,
)
def test_inputs_and_targets_make_the_original_again(
    tokens: list[int],
    probability: float,
    mean_span: float,
    limit: int,
    end: int | None,
    seed: int,
) -> None:
    original = np.array(tokens, dtype=np.int64)
    inputs, targets = infill_spans(
        original,
        probability=probability,
        mean_span=mean_span,
        sentinels=SENTINELS[:limit],
        end=end,
        rng=np.random.default_rng(seed),
    )
    noise, spans = span_counts(len(tokens), probability, mean_span, limit)
    tail = 0 if end is None else 1
    assert inputs.size == len(tokens) - noise + spans + tail
    assert targets.size == noise + spans + tail
    assert restore(inputs, targets) == tokens


def restore(inputs: np.ndarray, targets: np.ndarray) -> list[int]:
    written: dict[int, list[int]] = {}
    current: list[int] = []
    for token in targets.tolist():
        if token in SENTINELS:
            assert token not in written
            current = written[token] = []
        elif token != END:
            current.append(token)
    found: list[int] = []
    for token in inputs.tolist():
        if token in SENTINELS:
            found.extend(written.pop(token))
        elif token != END:
            found.append(token)
    assert not written
    return found


def test_sentinels_appear_in_order() -> None:
    inputs, targets = infill_spans(
        np.arange(100),
        probability=0.3,
        mean_span=3,
        sentinels=SENTINELS,
        end=END,
        rng=np.random.default_rng(0),
    )
    for sequence in (inputs, targets):
        used = sequence[sequence >= SENTINELS[0]]
        assert used.tolist() == list(SENTINELS[: used.size])


def test_infilling_needs_two_tokens_and_a_sentinel() -> None:
    for length, limit in ((1, 5), (5, 0)):
        with pytest.raises(ValueError, match="at least two tokens and one sentinel"):
            span_counts(length, 0.15, 3, limit)
