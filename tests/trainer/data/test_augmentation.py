from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.augmentation import (
    Augmenter,
    check_for_running_text,
    delete_tokens,
    drop_words,
    hide_tokens,
    infill,
    shuffle_sentences,
)
from trainer.data.batch import IGNORED
from trainer.data.pieces import BEGINS_SENTENCE, BEGINS_WORD, Pieces
from trainer.data.special import SpecialTokens
from trainer.errors import RecipeError
from trainer.recipe.schema import AugmentationOptions

MASK, UNKNOWN = 900, 901
SPECIAL = SpecialTokens(mask=MASK, unknown=UNKNOWN)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 0.9)


@st.composite
def texts(draw: st.DrawFn) -> Pieces:
    """Pieces with ids 0, 1, 2, ... in place, so that where each went can be told."""
    length = draw(st.integers(1, 40))
    words = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    sentences = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    flags = [
        (BEGINS_WORD if word or at == 0 or sentence else 0)
        | (BEGINS_SENTENCE if sentence or at == 0 else 0)
        for at, (word, sentence) in enumerate(zip(words, sentences, strict=True))
    ]
    tags = [at if flag & BEGINS_WORD else IGNORED for at, flag in enumerate(flags)]
    return Pieces(
        np.arange(length, dtype=np.int64),
        np.array(flags, dtype=np.uint8),
        np.array(tags, dtype=np.int64),
    )


options = st.builds(
    AugmentationOptions,
    token_masking=shares,
    token_deletion=shares,
    word_dropout=shares,
    span_infilling=shares,
    sentence_shuffling=st.floats(0, 1),
)


@given(texts(), options, seeds)
def test_no_text_becomes_empty_or_longer_and_tags_stay_with_their_tokens(
    pieces: Pieces, chosen: AugmentationOptions, seed: int
) -> None:
    augmenter = Augmenter.from_options(chosen, SPECIAL)
    if augmenter is None:
        return
    noisy = augmenter.apply(pieces, np.random.default_rng(seed))
    again = augmenter.apply(pieces, np.random.default_rng(seed))
    assert 1 <= len(noisy) <= len(pieces)
    assert noisy.tags is not None
    assert again.tags is not None
    assert noisy.flags.size == noisy.tags.size == noisy.ids.size
    ordinary = noisy.ids < MASK
    assert pieces.tags is not None
    assert np.array_equal(noisy.tags[ordinary], pieces.tags[noisy.ids[ordinary]])
    assert np.array_equal(noisy.ids, again.ids)
    assert np.array_equal(noisy.tags, again.tags)


@given(texts(), seeds)
def test_shuffling_moves_whole_sentences(pieces: Pieces, seed: int) -> None:
    shuffled = shuffle_sentences(pieces, np.random.default_rng(seed))
    assert sorted(shuffled.ids.tolist()) == pieces.ids.tolist()
    breaks = np.flatnonzero(np.diff(shuffled.ids) != 1) + 1
    assert (shuffled.flags[breaks] & BEGINS_SENTENCE).all()
    assert shuffled.flags[0] & BEGINS_SENTENCE


def test_shuffling_reaches_every_order() -> None:
    pieces = Pieces(np.arange(3), np.array([3, 3, 3], dtype=np.uint8))
    rng = np.random.default_rng(0)
    orders = {tuple(shuffle_sentences(pieces, rng).ids.tolist()) for _ in range(200)}
    assert len(orders) == 6


@given(texts(), shares, seeds)
def test_a_dropped_word_is_one_unknown_token_with_its_tag(
    pieces: Pieces, share: float, seed: int
) -> None:
    dropped = drop_words(pieces, share, UNKNOWN, np.random.default_rng(seed))
    begins = (dropped.flags & BEGINS_WORD).astype(bool)
    assert begins.sum() == (pieces.flags & BEGINS_WORD).astype(bool).sum()
    unknown = dropped.ids == UNKNOWN
    assert (begins | ~unknown).all()
    assert dropped.tags is not None
    assert (dropped.tags[unknown] >= 0).all()
    # Nothing of a dropped word is left: the piece after it begins a word.
    assert begins[1:][unknown[:-1]].all()


@given(texts(), seeds)
def test_deletion_keeps_the_order_and_at_least_one(pieces: Pieces, seed: int) -> None:
    kept = delete_tokens(pieces, 0.9, np.random.default_rng(seed))
    assert len(kept) >= 1
    assert (np.diff(kept.ids) > 0).all()


@given(texts(), shares, seeds)
def test_infilling_puts_one_mask_for_each_span(pieces: Pieces, share: float, seed: int) -> None:
    filled = infill(pieces, share, MASK, np.random.default_rng(seed))
    masks = filled.ids == MASK
    assert not (masks[1:] & masks[:-1]).any()
    assert filled.tags is not None
    assert (filled.tags[masks] == IGNORED).all()
    kept = int((~masks).sum())
    assert abs((len(pieces) - kept) - share * len(pieces)) < 1 or kept == 1


def test_shares_are_met_on_average() -> None:
    pieces = Pieces(np.arange(50_000), np.full(50_000, BEGINS_WORD, dtype=np.uint8))
    rng = np.random.default_rng(1)
    hidden = hide_tokens(pieces, 0.15, MASK, rng)
    assert (hidden.ids == MASK).mean() == pytest.approx(0.15, abs=0.01)
    assert len(delete_tokens(pieces, 0.2, rng)) / 50_000 == pytest.approx(0.8, abs=0.01)
    words = drop_words(pieces, 0.1, UNKNOWN, rng)
    assert (words.ids == UNKNOWN).mean() == pytest.approx(0.1, abs=0.01)
    short = [infill(pieces.take(np.arange(3)), 0.1, MASK, rng) for _ in range(5000)]
    assert np.mean([(row.ids == MASK).any() for row in short]) == pytest.approx(0.3, abs=0.03)


def test_noise_in_place_replaces_all_pieces_of_a_word_and_nothing_protected() -> None:
    augmenter = Augmenter.from_options(AugmentationOptions(word_dropout=0.5), SPECIAL)
    assert augmenter is not None
    ids = np.arange(4000)
    begins = ids % 4 == 0
    keep = ids % 4 == 3
    noisy = augmenter.apply_in_place(
        ids, begins_word=begins, keep=keep, rng=np.random.default_rng(0)
    )
    unknown = (noisy == UNKNOWN).reshape(-1, 4)
    assert not unknown[:, 3].any()
    assert (unknown[:, 0] == unknown[:, 1]).all()
    assert (unknown[:, 0] == unknown[:, 2]).all()
    assert 0.4 < unknown[:, 0].mean() < 0.6
    assert np.array_equal(noisy[noisy != UNKNOWN], ids[noisy != UNKNOWN])


def test_without_noise_there_is_no_augmenter() -> None:
    assert Augmenter.from_options(AugmentationOptions(), SPECIAL) is None


def test_a_vocabulary_without_the_tokens_is_refused_only_where_they_are_needed() -> None:
    bare = SpecialTokens(end=0)
    for name in ("token_masking", "span_infilling", "word_dropout"):
        with pytest.raises(RecipeError, match=f"augmentation.{name} puts a mask"):
            Augmenter.from_options(AugmentationOptions(**{name: 0.1}), bare)
    assert Augmenter.from_options(AugmentationOptions(token_deletion=0.1), bare) is not None
    either = Augmenter.from_options(
        AugmentationOptions(token_masking=0.1), SpecialTokens(unknown=UNKNOWN)
    )
    assert either is not None
    assert either.mask == UNKNOWN


@pytest.mark.parametrize("name", ["token_deletion", "span_infilling", "sentence_shuffling"])
def test_running_text_refuses_noise_that_moves_tokens(name: str) -> None:
    with pytest.raises(RecipeError, match=f"augmentation.{name} moves tokens"):
        check_for_running_text(AugmentationOptions(**{name: 0.1}))
    check_for_running_text(AugmentationOptions(token_masking=0.1, word_dropout=0.1))
