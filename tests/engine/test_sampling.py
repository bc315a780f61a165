"""Sampling: which tokens can come, how often, and what penalties do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.errors import DecodeError, InvalidRequest
from runtime.engine.sampling import Sampler, log_normalizer, most_likely
from runtime.engine.types import SamplingParams

SIZE = 300
rows = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(0, 4, SIZE).astype(np.float32)
)


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def naive_support(logits: np.ndarray, params: SamplingParams) -> set[int]:
    """Sort everything; the order of the cuts as documented."""
    p = probabilities(logits, params.temperature)
    kept = [token for token in range(len(p)) if p[token] >= params.min_p * p.max() * (1 - 1e-9)]
    kept.sort(key=lambda token: -p[token])
    if params.top_k:
        kept = kept[: params.top_k]
    total, reached, result = sum(p[kept]), 0.0, []
    for token in kept:
        if reached >= params.top_p * total * (1 - 1e-9):
            break
        result.append(token)
        reached += p[token]
    return set(result)


@given(
    rows,
    st.floats(0.1, 2),
    st.integers(0, 40),
    st.floats(0.05, 1),
    st.floats(0, 0.9),
    st.integers(0, 2**64 - 1),
)
def test_only_tokens_that_survive_the_cuts_are_drawn(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    params = SamplingParams(temperature, top_k, top_p, min_p, seed=seed)
    allowed = naive_support(logits, params)
    sampler = Sampler(params, [])
    assert {sampler.choose(logits) for _ in range(20)} <= allowed


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.0, seed=1),
        SamplingParams(0.5, seed=2),
        SamplingParams(1.5, top_k=5, seed=3),
        SamplingParams(1.0, top_p=0.8, seed=4),
        SamplingParams(1.0, min_p=0.1, seed=5),
        SamplingParams(1.0, top_k=20, top_p=0.9, min_p=0.02, seed=6),
    ],
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    logits = np.random.default_rng(0).normal(0, 2, 40).astype(np.float32)
    expected = probabilities(logits, params.temperature)
    support = naive_support(logits, params)
    expected[[token for token in range(40) if token not in support]] = 0
    expected /= expected.sum()
    sampler = Sampler(params, [])
    draws = 20_000
    counts = np.bincount([sampler.choose(logits) for _ in range(draws)], minlength=40)
    # Six standard deviations for each token; the seed is fixed, so this cannot flake.
    bound = 6 * np.sqrt(expected * (1 - expected) / draws) + 1e-9
    assert np.all(np.abs(counts / draws - expected) <= bound)


def test_the_whole_vocabulary_can_come_when_it_is_flat() -> None:
    sampler = Sampler(SamplingParams(1.0, seed=9), [])
    flat = np.zeros(64, dtype=np.float32)
    assert {sampler.choose(flat) for _ in range(2_000)} == set(range(64))


def test_top_p_widens_until_it_is_reached() -> None:
    flat = np.zeros(5_000, dtype=np.float32)
    sampler = Sampler(SamplingParams(1.0, top_p=0.99, seed=1), [])
    assert len({sampler.choose(flat) for _ in range(8_000)}) > 3_500


def test_the_seed_decides() -> None:
    logits = np.random.default_rng(1).normal(0, 1, SIZE).astype(np.float32)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(1.0, seed=seed), [])
        return [sampler.choose(logits) for _ in range(50)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_a_tiny_temperature_is_nearly_greedy_and_does_not_overflow() -> None:
    logits = np.random.default_rng(1).normal(0, 30, SIZE).astype(np.float32)
    sampler = Sampler(SamplingParams(1e-300, seed=1), [])
    assert sampler.choose(logits) == int(logits.argmax())


@given(
    rows,
    st.lists(st.integers(0, SIZE - 1), max_size=30),
    st.floats(0.1, 2),
    st.floats(-2, 2),
)
def test_penalties_do_what_a_loop_would(
    logits: np.ndarray, prompt: list[int], repetition: float, presence: float
) -> None:
    params = SamplingParams(0, repetition_penalty=repetition, presence_penalty=presence)
    sampler = Sampler(params, prompt)
    untouched = logits.copy()
    answer: list[int] = []
    for _ in range(6):
        expected = logits.copy()
        for token in set(prompt) | set(answer):
            value = expected[token]
            expected[token] = value / repetition if value > 0 else value * repetition
        for token in set(answer):
            expected[token] -= presence
        token = sampler.choose(logits)
        assert token == int(expected.argmax())
        answer.append(token)
    assert np.array_equal(logits, untouched)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(value: float) -> None:
    logits = np.zeros(8, dtype=np.float32)
    logits[3] = value
    with pytest.raises(DecodeError):
        Sampler(SamplingParams(), []).choose(logits)


def test_masked_logits_never_come() -> None:
    logits = np.full(8, -np.inf, dtype=np.float32)
    logits[[2, 5]] = 1
    sampler = Sampler(SamplingParams(2.0, seed=1), [])
    assert {sampler.choose(logits) for _ in range(50)} == {2, 5}


@settings(max_examples=50)
@given(rows)
def test_log_probabilities_sum_to_one_and_alternatives_are_sorted(logits: np.ndarray) -> None:
    normalizer = log_normalizer(logits)
    assert math.isclose(np.exp(logits.astype(np.float64) - normalizer).sum(), 1, rel_tol=1e-5)
    assert most_likely(logits, 5) == np.argsort(-logits, kind="stable")[:5].tolist()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", 1.0),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("presence_penalty", math.inf),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_values_out_of_range_name_their_field(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == f"sampling.{field}"
