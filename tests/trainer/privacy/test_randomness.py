"""The secret generator: uniform, independent, normal to the tails, and never repeated."""

from __future__ import annotations

import copy
import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.trainer.privacy.statistics import (
    fits_chance,
    fits_counts,
    fits_normal,
    fits_variance,
    normal_tail,
    uncorrelated,
)
from trainer.privacy import randomness
from trainer.privacy.errors import PrivacyError
from trainer.privacy.randomness import SecretGenerator


@pytest.fixture
def generator() -> SecretGenerator:
    return SecretGenerator()


def test_every_byte_of_a_word_is_uniform(generator: SecretGenerator) -> None:
    # Several rounds of the buffer of zeros, and no multiple of it.
    words = generator.words(100_003)
    columns = words.view(np.uint8).reshape(-1, 8)
    for column in columns.T:
        counts = np.bincount(column, minlength=256)
        assert fits_counts(counts, [column.size / 256] * 256)


def test_no_word_comes_twice(generator: SecretGenerator) -> None:
    words = np.concatenate([generator.words(size) for size in (1, 0, 7, 50_000, 50_000)])
    # The chance of a pair among 1e5 words is 3e-10.
    assert np.unique(words).size == words.size


def test_generators_are_independent() -> None:
    first, second = SecretGenerator(), SecretGenerator()
    assert not np.intersect1d(first.words(10_000), second.words(10_000)).size
    assert uncorrelated(first.normal(100_000), second.normal(100_000))


def test_values_of_one_draw_are_independent(generator: SecretGenerator) -> None:
    values = generator.normal(100_000)
    # Box and Muller make both halves of a round from the same words.
    half = 1 << 14
    assert uncorrelated(values[:half], values[half : 2 * half])
    assert uncorrelated(values[:-1], values[1:])
    squares = (values**2 - 1) / math.sqrt(2)
    assert uncorrelated(squares[:half], squares[half : 2 * half])


def test_a_fresh_key_takes_over(generator: SecretGenerator, monkeypatch) -> None:
    monkeypatch.setattr(randomness, "_KEY_LIFE_BYTES", 64)
    keys: list[bytes] = []

    def urandom(size: int) -> bytes:
        keys.append(os.getrandom(size))
        return keys[-1]

    monkeypatch.setattr(os, "urandom", urandom)
    words = np.concatenate([generator.words(8) for _ in range(5)])
    assert len(keys) == len(set(keys)) == 4
    assert np.unique(words).size == 40


def test_a_forked_child_has_coins_of_its_own(generator: SecretGenerator) -> None:
    generator.words(3)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, generator.words(100).tobytes())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reader, 800), dtype=np.uint64)
    os.close(reader)
    os.close(writer)
    assert theirs.size == 100
    assert not np.intersect1d(theirs, generator.words(100)).size


def test_threads_never_get_the_same_words(generator: SecretGenerator) -> None:
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda _: generator.words(500), range(64)))
    assert np.unique(np.concatenate(parts)).size == 64 * 500


def test_nothing_copies_or_stores_a_generator(generator: SecretGenerator) -> None:
    with pytest.raises(TypeError, match="used once"):
        pickle.dumps(generator)
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="used once"):
            copied(generator)
    assert repr(generator) == "SecretGenerator()"
    with pytest.raises(TypeError):
        SecretGenerator(b"0" * 32)  # type: ignore[call-arg]


@pytest.mark.parametrize("probability", [0.001, 0.25, 1 / 3, 0.9])
def test_coins(generator: SecretGenerator, probability: float) -> None:
    hits = int(generator.coins(200_000, probability).sum())
    assert fits_chance(hits, 200_000, probability)


def test_coins_without_a_doubt(generator: SecretGenerator) -> None:
    assert not generator.coins(1000, 0.0).any()
    assert generator.coins(1000, 1.0).all()
    assert generator.coins(0, 0.5).size == 0
    # The largest float below 1, and the smallest above 0, are no rounding trouble.
    assert generator.coins(1000, math.nextafter(1.0, 0)).sum() >= 999
    assert not generator.coins(1000, 5e-324).any()


def test_more_coins_than_one_round(generator: SecretGenerator, monkeypatch) -> None:
    monkeypatch.setattr(randomness, "_COINS", 1000)
    coins = generator.coins(50_500, 0.5)
    assert fits_chance(int(coins.sum()), coins.size, 0.5)
    assert fits_chance(int(coins[-500:].sum()), 500, 0.5)


def test_a_coin_is_never_more_likely_than_said(generator: SecretGenerator, monkeypatch) -> None:
    probability = 0.3
    limit = math.floor(probability * 2**64)
    words = np.array([0, limit - 1, limit, 2**64 - 1], dtype=np.uint64)
    monkeypatch.setattr(generator, "words", lambda _: words)
    assert generator.coins(4, probability).tolist() == [True, True, False, False]


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_no_such_probability(generator: SecretGenerator, probability: float) -> None:
    with pytest.raises(PrivacyError, match="between 0 and 1"):
        generator.coins(10, probability)


@pytest.mark.parametrize("bound", [2, 3, 10, 97])
def test_integers_below_a_bound_are_uniform(generator: SecretGenerator, bound: int) -> None:
    values = generator.below(100_000, bound)
    assert fits_counts(np.bincount(values, minlength=bound), [100_000 / bound] * bound)


def test_words_beyond_the_last_whole_multiple_are_drawn_again(
    generator: SecretGenerator, monkeypatch
) -> None:
    bound = 3 << 61
    draws = iter([np.array([2**64 - 1, bound - 1, bound], dtype=np.uint64)])
    plain = generator.words
    monkeypatch.setattr(
        generator, "words", lambda count: next(draws, None) if count == 3 else plain(count)
    )
    values = generator.below(3, bound)
    assert values[1] == bound - 1
    assert ((values >= 0) & (values < bound)).all()


def test_bounds_that_are_none(generator: SecretGenerator) -> None:
    assert generator.below(5, 1).tolist() == [0] * 5
    assert (generator.below(5, 1 << 63) >= 0).all()
    for bound in (0, -1, (1 << 63) + 1):
        with pytest.raises(PrivacyError, match="uniform integer"):
            generator.below(5, bound)


def test_every_subset_is_equally_likely(generator: SecretGenerator) -> None:
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        chosen = tuple(generator.subset(5, 2).tolist())
        counts[chosen] = counts.get(chosen, 0) + 1
    assert all(a < b for a, b in counts)
    assert fits_counts(list(counts.values()), [600.0] * 10)


def test_subsets_of_all_and_of_nothing(generator: SecretGenerator) -> None:
    assert generator.subset(4, 4).tolist() == [0, 1, 2, 3]
    assert generator.subset(4, 0).size == 0
    assert generator.subset(0, 0).size == 0
    for count, size in ((3, 4), (3, -1)):
        with pytest.raises(PrivacyError, match="cannot be chosen"):
            generator.subset(count, size)


def test_equal_words_favour_nobody(generator: SecretGenerator, monkeypatch) -> None:
    draws = iter([[7, 7, 1], [9, 5, 8]])
    monkeypatch.setattr(generator, "words", lambda _: np.array(next(draws), dtype=np.uint64))
    assert generator.subset(3, 1).tolist() == [1]


@pytest.mark.parametrize("deviation", [1.0, 0.07, 3e4])
def test_gaussian_values(generator: SecretGenerator, deviation: float) -> None:
    values = generator.gaussian((250, 400), deviation)
    assert values.dtype == np.float32
    assert values.shape == (250, 400)
    assert fits_normal(values.ravel(), deviation)
    assert fits_variance(values.ravel(), deviation)


@pytest.mark.parametrize("beyond", [2.0, 3.0, 4.0, 4.5])
def test_tails_are_as_heavy_as_they_must_be(generator: SecretGenerator, beyond: float) -> None:
    values = generator.normal(1_000_000)
    chance = normal_tail(beyond)
    assert fits_chance(int((values > beyond).sum()), values.size, chance)
    assert fits_chance(int((values < -beyond).sum()), values.size, chance)


@pytest.mark.parametrize("word", [0, 1, 2**53, 2**63, 2**64 - 1])
def test_no_word_makes_what_is_no_number(generator: SecretGenerator, monkeypatch, word) -> None:
    monkeypatch.setattr(generator, "words", lambda count: np.full(count, word, dtype=np.uint64))
    values = generator.normal(10)
    assert np.isfinite(values).all()
    radius = math.sqrt(-2 * math.log((word + 0.5) / 2**64))
    assert np.abs(values).max() <= radius + 1e-12
    if word == 0:
        # The farthest that a value gets; 53-bit uniforms would end at 8.57.
        assert np.abs(values).max() == pytest.approx(9.49, abs=0.01)


@pytest.mark.parametrize("shape", [0, 1, 7, (0, 3), (1 << 15) + 3])
def test_any_shape(generator: SecretGenerator, shape) -> None:
    values = generator.gaussian(shape)
    assert values.shape == (shape if isinstance(shape, tuple) else (shape,))
    # Nothing was left as it lay in memory: an exact zero is next to impossible.
    assert (values != 0).all()


def test_no_deviation_is_no_noise(generator: SecretGenerator) -> None:
    assert (generator.gaussian(100, 0.0) == 0).all()
    for deviation in (-1.0, math.nan, math.inf):
        with pytest.raises(PrivacyError, match="standard deviation"):
            generator.gaussian(10, deviation)
