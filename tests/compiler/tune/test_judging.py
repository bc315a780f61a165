"""Promises, the front and the choice, over figures as a search would have them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import PromiseError, RuinedError, SearchError
from compiler.llama.quality import GgufQuality, summarize
from compiler.onnx_measure.quality import compare_outputs
from compiler.tune.candidate import Candidate, Quality, Round, Speed, Trial
from compiler.tune.choose import Load, choose, loss
from compiler.tune.clock import Clock, parse_duration
from compiler.tune.judged import decoder_quality, encoder_quality
from compiler.tune.pareto import pareto_front
from compiler.tune.promise import CLAUSES, QUALITIES, Promise, make_promise
from compiler.tune.windows import calibration_tokens, window_of, windows_of

BASE = Speed({"decode@1": 70.0, "decode@16": 210.0, "prefill@512": 600.0})


def trial(label: str, kl: float, one: float, sixteen: float, size: int = 100) -> Trial:
    candidate = Candidate("llama.cpp", label, "output", {"default": label})
    speed = Speed({"decode@1": 70 * one, "decode@16": 210 * sixteen, "prefill@512": 600.0})
    quality = Quality(samples=1536, kl_mean=kl, perplexity_ratio=1 + kl, top1=1 - kl)
    return Trial(candidate, size, "0" * 64, quality, (Round(speed, BASE),))


REFERENCE = trial("as given", 0.0, 1.0, 1.0, 253)
UNTIED = trial("output Q4_0, untied", 0.055, 1.52, 1.24, 270)
TIED = trial("output and embedding Q4_0", 0.093, 1.55, 1.25, 169)
WIDER = trial("output Q5_1", 0.021, 1.02, 0.9, 200)
RUINED = trial("all Q4_0", 0.449, 1.9, 1.6, 158)
ALL = (REFERENCE, UNTIED, TIED, WIDER, RUINED)


def test_the_fastest_within_the_promise_is_chosen_and_the_ruined_one_never() -> None:
    choice = choose(ALL, make_promise(None, max_kl=0.07), Load(1))
    assert choice.chosen is UNTIED
    assert RUINED not in choice.within
    assert TIED not in choice.within
    assert [one.candidate.label for one in choice.front] == [
        "as given",
        "output Q5_1",
        "output Q4_0, untied",
        "output and embedding Q4_0",
        "all Q4_0",
    ]


def test_another_load_may_choose_another_form() -> None:
    near = make_promise("near-lossless")
    assert choose(ALL, near, Load(16)).chosen is REFERENCE
    assert choose(ALL, make_promise(None, max_kl=0.1), Load.parse("size")).chosen is TIED


def test_of_equally_fast_ones_the_closer_to_the_reference_is_chosen() -> None:
    closer = trial("closer", 0.03, 1.51, 1.2)
    assert choose((*ALL, closer), make_promise(None, max_kl=0.07), Load(1)).chosen is closer


def test_a_dropped_trial_is_not_chosen() -> None:
    dropped = replace(UNTIED, dropped="needs more memory than the target has")
    trials = [REFERENCE, dropped, WIDER]
    assert choose(trials, make_promise(None, max_kl=0.07), Load(1)).chosen is not dropped


def test_an_impossible_promise_names_the_closest_and_its_figures() -> None:
    promise = make_promise(None, max_kl=0.02)
    with pytest.raises(PromiseError) as caught:
        choose([WIDER, UNTIED, RUINED], promise, Load(1))
    said = str(caught.value)
    assert "'output Q5_1'" in said
    assert "mean KL divergence 0.021" in said
    assert "promised at most 0.02" in said


def test_a_clause_that_was_insisted_on_and_not_measured_is_broken() -> None:
    quality = Quality(samples=10, kl_mean=0.01)
    assert make_promise("near-lossless").broken(quality) == ()
    insisted = make_promise("near-lossless", min_accuracy=0.9)
    assert insisted.broken(quality) == ("accuracy was not measured, promised at least 0.9",)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_breaks_the_promise(value: float) -> None:
    promise = make_promise("small")
    for figure in ("kl_mean", "perplexity_ratio", "accuracy_drop", "spearman"):
        changed: dict[str, Any] = {figure: value}
        quality = replace(Quality(samples=10), **changed)
        assert promise.broken(quality), figure
        assert promise.worst_excess(quality) == math.inf
    undefined = trial("undefined", value, 3.0, 3.0)
    assert loss(undefined) == math.inf
    assert choose((*ALL, undefined), promise, Load(1)).chosen is not undefined


def test_a_figure_that_is_the_bound_itself_keeps_it() -> None:
    promise = make_promise(None, max_accuracy_drop=0.01)
    # 0.010000000000000009
    assert promise.broken(Quality(samples=100, accuracy=0.92, accuracy_drop=0.93 - 0.92)) == ()
    assert promise.broken(Quality(samples=100, accuracy=0.91, accuracy_drop=0.93 - 0.91))


def test_what_keeps_the_promise_and_was_dropped_is_said() -> None:
    dropped = replace(WIDER, rounds=(), dropped="failed: it was too odd")
    with pytest.raises(PromiseError, match="'output Q5_1' would: failed: it was too odd"):
        choose([dropped, UNTIED], make_promise(None, max_kl=0.03), Load(1))


def test_the_closest_is_one_that_was_judged_on_all_texts() -> None:
    promise = make_promise(None, max_kl=0.01)
    partly = replace(trial("partly", 0.015, 1.0, 1.0), rounds=(), quick=True, dropped="ruined")
    with pytest.raises(PromiseError, match="Closest is 'output Q5_1'"):
        choose([WIDER, UNTIED, partly], promise, Load(1))


FINE = GgufQuality(0.1, 0.0, 0.2, 0.5, 20.0, 1.1, 1.0, 1.2, 0.9, 0.8, 1.0, 768)


@pytest.mark.parametrize("figure", ["kl_mean", "kl_p99", "perplexity", "perplexity_ratio"])
def test_a_decoder_whose_figures_are_no_numbers_is_ruined(figure: str) -> None:
    undefined: dict[str, Any] = {figure: math.nan}
    with pytest.raises(RuinedError, match="no finite numbers"):
        decoder_quality(replace(FINE, **undefined))
    infinite: dict[str, Any] = {figure: math.inf}
    beyond = decoder_quality(replace(FINE, **infinite))
    # What is too large for a record is still read back, and still breaks every promise.
    assert Quality.from_dict(beyond.to_dict()) == beyond


def test_rounding_noise_is_no_divergence() -> None:
    quality = decoder_quality(replace(FINE, kl_mean=-0.0015, kl_p99=-0.01))
    assert (quality.kl_mean, quality.kl_p99) == (0.0, 0.0)
    assert Quality.from_dict(quality.to_dict()) == quality


def test_surprise_beyond_all_numbers_is_no_crash() -> None:
    far = np.array([800.0, 900.0])
    seen = summarize(far, far, np.zeros(2), np.zeros(2))
    assert make_promise("small").broken(decoder_quality(seen))


def test_an_embedder_that_holds_all_texts_to_be_alike_is_ruined() -> None:
    reference = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    for ruined in (np.zeros_like(reference), np.ones_like(reference)):
        quality = encoder_quality(compare_outputs(reference, ruined), "embed")
        assert quality.spearman == -1.0
        assert make_promise("small").broken(quality)
    # Nothing can be said where the reference tells nothing apart.
    flat = np.ones_like(reference)
    assert encoder_quality(compare_outputs(flat, reference), "embed").spearman is None


@pytest.mark.parametrize(
    ("tokens", "window", "size", "vocabulary", "windows"),
    [
        # Gemma 3 270M: 3,072 tokens of a long text.
        (50_000, 512, 253 << 20, 262_144, 6),
        (2_100, 512, 253 << 20, 262_144, 4),
        # Less than is needed: as many as that would be, so that it is refused.
        (100, 512, 253 << 20, 262_144, 3),
        (50_000, 64, 253 << 20, 262_144, 48),
        # Small models on more, large ones on less.
        (50_000, 512, 1 << 20, 300, 48),
        (50_000, 512, 4 << 30, 32_000, 3),
        (50_000, 512, 16 << 20, 262_144, 8),
    ],
)
def test_text_is_judged_on_as_far_as_time_allows(
    tokens: int, window: int, size: int, vocabulary: int, windows: int
) -> None:
    assert windows_of(tokens, window, size, vocabulary) == windows
    assert window_of(window) == window


@pytest.mark.parametrize(
    ("size", "tokens"), [(1 << 20, 16384), (253 << 20, 16384), (1 << 32, 8192)]
)
def test_importance_is_gathered_on_a_part_of_a_long_text(size: int, tokens: int) -> None:
    assert calibration_tokens(size) == tokens


@pytest.mark.parametrize(
    ("name", "bounds", "message"),
    [
        ("superb", {}, "there is no quality"),
        (None, {}, "nothing is promised"),
        (None, {"max_kl": -1.0}, "max_kl: must be from 0 to 100"),
        (None, {"min_top1": 1.5}, "min_top1"),
        (None, {"max_regret": 1.0}, "there is no bound"),
    ],
)
def test_a_promise_that_means_nothing_is_refused(
    name: str | None, bounds: dict[str, float], message: str
) -> None:
    with pytest.raises(SearchError, match=message):
        make_promise(name, **bounds)


def test_named_qualities_are_ordered() -> None:
    kept = list(QUALITIES.values())
    for strict, loose in itertools.pairwise(kept):
        for clause in CLAUSES:
            first, second = getattr(strict, clause.name), getattr(loose, clause.name)
            if first is not None:
                assert first < second if clause.upper else first > second


@pytest.mark.parametrize("promise", [*QUALITIES.values(), make_promise("small", min_top1=0.8)])
def test_a_promise_is_read_back(promise: Promise) -> None:
    assert Promise.from_dict(promise.to_dict()) == promise


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "٣"])
def test_a_load_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(SearchError, match="--for"):
        Load.parse(text)


def test_a_load_takes_the_nearest_batch_that_was_measured() -> None:
    names = ["decode@1", "decode@16", "encode@32x16", "encode@32x128", "prefill@512"]
    assert Load(20).rates(names) == ("decode@16",)
    assert Load(40).rates(names) == ("encode@32x16", "encode@32x128")
    assert Load.parse("prefill").rates(names) == ("prefill@512",)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["20", "0m", "-3s", "1d", "1e3s", " 5m"])
def test_a_duration_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(SearchError, match="duration"):
        parse_duration(text)


def test_a_budget_that_is_spent_allows_no_step() -> None:
    assert not Clock(1e-9).allows(1.0)
    assert Clock(None).allows(0.1, 1e9)
    assert not Clock(10.0).allows(0.5, 6.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_the_front_holds_what_nothing_beats_and_nothing_else(items: list[tuple[int, int]]) -> None:
    front = pareto_front(items, lambda one: one[0], lambda one: one[1])

    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    assert all(not any(beats(other, one) for other in items) for one in front)
    assert {one for one in items if not any(beats(o, one) for o in items)} == set(front)
    assert [one[1] for one in front] == sorted(one[1] for one in front)
