"""Noise on sums of gradients: its size, its grid, and what gets none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.privacy.statistics import fits_normal, fits_variance, uncorrelated
from trainer.privacy.errors import PrivacyError
from trainer.privacy.noise import MODES, add_noise_, mode_facts
from trainer.privacy.randomness import SecretGenerator


def noised(
    sums: dict[str, torch.Tensor],
    mode: str = "gaussian",
    multiplier: float = 1.5,
    bound: float = 0.1,
) -> dict[str, torch.Tensor]:
    add_noise_(
        sums,
        mode=mode,
        noise_multiplier=multiplier,
        sensitivity=bound,
        generator=SecretGenerator(),
    )
    return sums


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("multiplier", "bound"), [(1.0, 0.1), (0.544, 1.0), (30.0, 3.0)])
def test_the_variance_is_that_of_the_plan(mode: str, multiplier: float, bound: float) -> None:
    sums = noised({"a": torch.zeros(300, 200), "b": torch.zeros(40_000)}, mode, multiplier, bound)
    together = torch.cat([tensor.flatten() for tensor in sums.values()]).numpy()
    deviation = multiplier * bound
    if mode == "discrete":
        # What rounding 100,000 values to the grid adds to the distance of two sums.
        step = 2.0 ** (math.floor(math.log2(bound)) - 20)
        deviation = multiplier * (bound + step * math.sqrt(together.size))
    assert fits_variance(together, deviation)
    assert fits_normal(together, deviation)


@pytest.mark.parametrize("mode", MODES)
def test_noise_is_added_and_fresh(mode: str) -> None:
    before = torch.linspace(-100, 100, 50_000)
    first = noised({"a": before.clone()}, mode)["a"]
    second = noised({"a": before.clone()}, mode)["a"]
    assert first.dtype == torch.float32
    noise = [((each.double() - before.double()) / 0.15).numpy() for each in (first, second)]
    assert fits_variance(noise[0], 1.0004 if mode == "discrete" else 1.0)
    assert uncorrelated(*noise)


@pytest.mark.parametrize("mode", MODES)
def test_any_layout_in_memory(mode: str) -> None:
    base = torch.zeros(64, 512)
    sums = noised(
        {"transposed": base.t(), "empty": torch.zeros(0), "scalar": torch.zeros(())}, mode
    )
    assert (base != 0).float().mean() > 0.99
    assert fits_variance(base.flatten().numpy(), 0.15)
    assert sums["scalar"].item() != 0
    # A parameter's gradient belongs to the graph's outside; noise needs no graph.
    tracked = torch.zeros(5, requires_grad=True)
    noised({"a": tracked}, mode)
    assert (tracked.detach() != 0).all()


def test_more_than_one_part(monkeypatch) -> None:
    monkeypatch.setattr("trainer.privacy.noise._PART", 1000)
    values = noised({"a": torch.zeros(50_500)})["a"].numpy()
    assert fits_variance(values, 0.15)
    assert np.unique(values).size > 50_000


@settings(max_examples=40, deadline=None)
@given(bound=st.floats(1e-6, 1e6), multiplier=st.floats(0.01, 1000))
def test_discrete_results_lie_on_the_grid(bound: float, multiplier: float) -> None:
    values = noised({"a": torch.full((50,), bound)}, "discrete", multiplier, bound)["a"]
    step = 2.0 ** (math.frexp(bound)[1] - 21)
    assert step * 2**20 <= bound < step * 2**21
    steps = values.double() / step
    # float32 keeps 24 bits, and only rounds what was on the grid before.
    assert torch.equal(steps, steps.round())


@pytest.mark.parametrize("mode", MODES)
def test_a_multiplier_of_zero_adds_nothing(mode: str) -> None:
    before = torch.randn(100)
    assert torch.equal(noised({"a": before.clone()}, mode, 0.0)["a"], before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "laplace"}, "none of gaussian, discrete"),
        ({"multiplier": -1.0}, "noise multiplier"),
        ({"multiplier": math.nan}, "noise multiplier"),
        ({"multiplier": math.inf}, "noise multiplier"),
        ({"bound": 0.0}, "sensitivity"),
        ({"bound": math.inf}, "sensitivity"),
    ],
)
def test_settings_that_are_none(options, message: str) -> None:
    sums = {"a": torch.zeros(3)}
    with pytest.raises(PrivacyError, match=message):
        noised(sums, **options)
    assert (sums["a"] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("multiplier", [0.0, 1.0])
def test_a_sum_that_is_no_number_changes_nothing(bad: float, multiplier: float) -> None:
    sums = {"good": torch.zeros(3), "layer.weight": torch.tensor([0.0, bad])}
    with pytest.raises(PrivacyError, match=r"layer\.weight"):
        noised(sums, multiplier=multiplier)
    assert (sums["good"] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_sums_of_another_type_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(PrivacyError, match="added to float32"):
        noised({"a": torch.zeros(3, dtype=dtype)})


@pytest.mark.parametrize("mode", MODES)
def test_the_report_is_told_what_is_guaranteed(mode: str) -> None:
    facts = mode_facts(mode)
    assert set(facts) == {"source", "arithmetic", "guarantee"}
    assert "AES-256" in facts["source"]
    facts.clear()
    assert mode_facts(mode)
    with pytest.raises(PrivacyError, match="none of"):
        mode_facts("laplace")
