"""Accounting: known figures, three accountants beside one another, and bounds by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant

from trainer.privacy.accounting import (
    curve,
    delta_for,
    epsilon_pld,
    epsilon_prv,
    epsilon_rdp,
    steps_within,
)
from trainer.privacy.calibration import RESOLUTION, SMALLEST, solve_noise_multiplier
from trainer.privacy.errors import PrivacyError
from trainer.privacy.event import Event

SST2 = 67_349
MNLI = 392_702
# units, q, updates, delta, and the noise multipliers of epsilon 3 and 8 in the literature.
KNOWN = {
    "sst2": (SST2, 0.0148, 202, 0.5 / SST2, 0.761, 0.544),
    "middle": (62_500, 0.0243, 411, 8e-6, 1.027, 0.683),
    "mnli": (MNLI, 0.0153, 1178, 0.5 / MNLI, 1.092, 0.715),
    "small": (2000, 256 / 2000, 156, 1e-5, 2.43, 1.23),
}


@pytest.mark.parametrize("name", KNOWN)
def test_noise_multipliers_of_the_literature(name: str) -> None:
    units, q, steps, delta, three, eight = KNOWN[name]
    event = Event(units, q, 1.0, steps)
    for epsilon, expected in ((3.0, three), (8.0, eight)):
        found = solve_noise_multiplier(event, epsilon, delta)
        assert found == pytest.approx(expected, abs=0.005)
        solved = replace(event, noise_multiplier=found)
        assert epsilon_pld(solved, delta) <= epsilon
        # A little less noise would be too little.
        less = replace(event, noise_multiplier=found - 2 * RESOLUTION)
        assert epsilon_pld(less, delta) > epsilon


@pytest.mark.parametrize("name", KNOWN)
def test_the_accountants_agree(name: str) -> None:
    units, q, steps, delta, three, eight = KNOWN[name]
    for noise in (three, eight):
        event = Event(units, q, noise, steps)
        pld, prv = epsilon_pld(event, delta), epsilon_prv(event, delta)
        rdp = epsilon_rdp(event, delta)
        assert prv is not None
        assert abs(prv - pld) <= 0.02
        assert pld <= rdp
        # Renyi accounting overstates these by 9 to 25%.
        assert 1.05 < rdp / pld < 1.3


@settings(max_examples=12, deadline=None)
@given(
    q=st.floats(1e-3, 1.0),
    noise=st.floats(0.6, 20.0),
    steps=st.integers(1, 2000),
    exponent=st.floats(-9, -3),
)
def test_the_claim_is_never_above_renyi_accounting(
    q: float, noise: float, steps: int, exponent: float
) -> None:
    event = Event(10_000, q, noise, steps)
    delta = 10.0**exponent
    pld, rdp = epsilon_pld(event, delta), epsilon_rdp(event, delta)
    if math.isinf(pld):
        # Losses beyond what its grid holds count as unbounded.
        assert rdp > 300
        return
    # Below a hundredth both say "nothing", and the grid of losses shows.
    assert pld <= max(rdp * 1.001, 0.01)


def test_losses_beyond_the_grid_are_claimed_to_be_unbounded() -> None:
    event = Event(10_000, 0.9835324647780167, 0.9375, 1124)
    assert epsilon_pld(event, 1e-3) == math.inf


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_one_update_of_everybody_is_the_gaussian_mechanism(epsilon: float) -> None:
    """delta = Phi(1/2s - e s) - exp(e) Phi(-1/2s - e s); Balle and Wang 2018, theorem 8."""
    noise = 1.3
    below = NormalDist().cdf
    exact = below(0.5 / noise - epsilon * noise)
    exact -= math.exp(epsilon) * below(-0.5 / noise - epsilon * noise)
    found = delta_for(Event(10, 1.0, noise, 1), epsilon)
    # Never below, and hardly above.
    assert exact * (1 - 1e-9) <= found <= exact * 1.01


def test_gaussian_updates_compose_like_one_with_less_noise() -> None:
    many = epsilon_pld(Event(10, 1.0, 6.0, 36), 1e-5)
    assert many == pytest.approx(epsilon_pld(Event(10, 1.0, 1.0, 1), 1e-5), rel=1e-3)


def test_no_noise_is_no_privacy() -> None:
    silent, noisy = Event(100, 0.1, 0.0, 1), Event(100, 0.1, 1.0, 1)
    for events in (silent, [noisy, silent]):
        assert math.isinf(epsilon_pld(events, 1e-3))
        assert math.isinf(epsilon_rdp(events, 1e-3))
        prv = epsilon_prv(events, 1e-3)
        assert prv is not None
        assert math.isinf(prv)
        assert delta_for(events, 5.0) == 1.0


def test_a_sampler_without_coins_gets_no_amplification() -> None:
    units, q, steps, delta, three, _ = KNOWN["sst2"]
    poisson = Event(units, q, three, steps)
    shuffled = poisson.without_amplification()
    # 202 batches of 1.48% are 3 epochs: as much as three updates of everybody.
    everybody = Event(units, 1.0, three, 3)
    assert epsilon_pld(shuffled, delta) == pytest.approx(epsilon_pld(everybody, delta), rel=1e-6)
    assert epsilon_pld(shuffled, delta) > 3 * epsilon_pld(poisson, delta)
    unknown = replace(poisson, sampler="unknown")
    assert epsilon_pld(unknown, delta) > epsilon_pld(shuffled, delta)
    assert epsilon_rdp(shuffled, delta) >= epsilon_pld(shuffled, delta)


def test_cutting_large_batches_costs_nothing_and_small_ones_something() -> None:
    large = Event(SST2, 0.0148, 0.761, 202)
    cut = replace(large, cap=1196)
    assert epsilon_pld(cut, 7e-6) == pytest.approx(epsilon_pld(large, 7e-6), abs=1e-3)
    small = Event(100, 0.16, 1.0, 50)
    assert epsilon_pld(replace(small, cap=20), 1e-3) > 1.2 * epsilon_pld(small, 1e-3)
    # A cap that no draw can exceed is none.
    never = replace(small, cap=100)
    assert epsilon_pld(never, 1e-3) == epsilon_pld(small, 1e-3)


def test_many_updates_of_tiny_batches_are_not_overstated() -> None:
    """Losses far below the usual grid: 100,000 updates that see a 10,000th each."""
    event = Event(10**6, 1e-4, 1.0, 100_000)
    prv = epsilon_prv(event, 1e-7)
    assert prv is not None
    assert epsilon_pld(event, 1e-7) == pytest.approx(prv, abs=0.02)


def test_releases_add_up() -> None:
    event = Event(1000, 0.1, 1.5, 50)
    other = Event(1000, 0.2, 3.0, 20)
    together = epsilon_pld([event, other], 1e-4)
    assert max(epsilon_pld(event, 1e-4), epsilon_pld(other, 1e-4)) < together
    assert together < epsilon_pld(event, 5e-5) + epsilon_pld(other, 5e-5)
    assert epsilon_pld([event.of(20), event.of(30)], 1e-4) == epsilon_pld(event, 1e-4)


def test_nothing_released_is_nothing_spent() -> None:
    assert epsilon_pld([], 1e-5) == 0.0
    assert epsilon_rdp([], 1e-5) == 0.0


def test_a_curve_falls_and_has_three_accountants() -> None:
    found = curve(Event(2000, 0.128, 1.23, 156), (1e-4, 1e-6, 1e-5))
    assert found.deltas == (1e-6, 1e-5, 1e-4)
    assert list(found.pld) == sorted(found.pld, reverse=True)
    for pld, rdp, prv in zip(found.pld, found.rdp, found.prv, strict=True):
        assert pld <= rdp
        assert prv is not None
        assert abs(prv - pld) <= 0.02


def test_a_curve_composes_once_and_says_what_single_figures_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed = []
    compose = PRVAccountant._get_dprv

    def counted(self: PRVAccountant, *args: object, **options: object) -> object:
        composed.append(options)
        return compose(self, *args, **options)

    monkeypatch.setattr(PRVAccountant, "_get_dprv", counted)
    event = [Event(2000, 0.128, 1.23, 156), Event(2000, 0.05, 2.0, 40)]
    found = curve(event)
    assert len(composed) == 1
    for delta, prv in zip(found.deltas, found.prv, strict=True):
        alone = epsilon_prv(event, delta)
        assert (prv is None) == (alone is None)
        assert prv is None or alone is None or abs(prv - alone) <= 0.01


def test_a_delta_that_prv_cannot_tell_takes_no_others_along() -> None:
    found = curve(Event(2000, 0.128, 1.23, 156), (1e-30, 1e-5))
    assert found.prv[0] is None
    assert found.prv[1] == pytest.approx(found.pld[1], abs=0.02)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_a_delta_that_is_no_chance_is_refused(delta: float) -> None:
    event = Event(100, 0.1, 1.0, 1)
    for accountant in (epsilon_pld, epsilon_rdp, epsilon_prv):
        with pytest.raises(PrivacyError, match="delta"):
            accountant(event, delta)


@settings(max_examples=5, deadline=None)
@given(before=st.integers(0, 60), epsilon=st.floats(1.0, 6.0))
def test_as_many_updates_as_a_budget_allows(before: int, epsilon: float) -> None:
    event = Event(500, 0.1, 1.5, 80)
    earlier = [event.of(before)] if before else []
    found = steps_within(earlier, event, epsilon, 1e-4)
    assert 0 <= found <= 80
    if found:
        assert epsilon_pld([*earlier, event.of(found)], 1e-4) <= epsilon + 1e-6
    if found < 80:
        assert epsilon_pld([*earlier, event.of(found + 1)], 1e-4) > epsilon - 1e-6


def test_without_noise_a_budget_allows_nothing() -> None:
    assert steps_within([], Event(500, 0.1, 0.0, 80), 100.0, 1e-4) == 0
    assert steps_within([Event(500, 0.1, 0.0, 1)], Event(500, 0.1, 1.0, 80), 100.0, 1e-4) == 0


def test_noise_for_what_is_left_of_a_claim() -> None:
    event, delta = Event(2000, 0.1, 1.0, 100), 1e-5
    alone = solve_noise_multiplier(event, 4.0, delta)
    earlier = [replace(event, noise_multiplier=4.0)]
    after = solve_noise_multiplier(event, 4.0, delta, earlier)
    assert after > alone
    total = epsilon_pld([*earlier, replace(event, noise_multiplier=after)], delta)
    assert 3.99 < total <= 4.0


def test_a_claim_that_is_spent_cannot_be_reached() -> None:
    event = Event(2000, 0.1, 1.0, 100)
    with pytest.raises(PrivacyError, match="earlier releases"):
        solve_noise_multiplier(event, 1.0, 1e-5, [event])


def test_a_claim_beyond_all_noise_cannot_be_reached() -> None:
    with pytest.raises(PrivacyError, match="cannot be reached"):
        solve_noise_multiplier(Event(100, 1.0, 1.0, 5000), 0.01, 1e-9)


def test_hardly_a_claim_needs_hardly_any_noise() -> None:
    assert solve_noise_multiplier(Event(100, 0.01, 1.0, 1), 1000.0, 1e-3) == SMALLEST
