"""The plan: what derives from what, what is refused, and how it is written down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.errors import PrivacyError
from trainer.privacy.event import Event
from trainer.privacy.plan import PrivacyPlan, make_plan
from trainer.recipe.schema import BatchOptions, OptimizerOptions, PrivacyOptions, Recipe, RunOptions


def recipe(batch: int = 200, steps: int = 100, **privacy: Any) -> Recipe:
    """A recipe of nothing but its privacy."""
    return Recipe(
        run=RunOptions(steps=steps),
        batch=BatchOptions(sequences=batch),
        optimizer=OptimizerOptions(warmup_steps=0),
        privacy=PrivacyOptions(enabled=True, **privacy),
    )


def test_everything_follows_from_recipe_and_size() -> None:
    plan = make_plan(recipe(epsilon=3.0, clip_norm=0.5), 2000)
    assert (plan.unit, plan.units, plan.steps, plan.contributions) == ("record", 2000, 100, 1)
    assert plan.sampling_probability == 0.1
    assert plan.delta == 0.5 / 2000
    assert plan.sensitivity == 0.5
    assert plan.noise_std == plan.noise_multiplier * 0.5
    assert plan.normalizer == 200
    assert plan.noise_to_batch_ratio == plan.noise_multiplier / 200
    assert 2.99 < plan.epsilon <= 3.0
    assert plan.epsilon == epsilon_pld(plan.event, plan.delta)
    assert plan.step_event == plan.event.of(1)
    assert plan.event.cap == plan.cap
    assert plan.event.sampler == "poisson"


def test_users_bring_several_records() -> None:
    plan = make_plan(
        recipe(unit="user", user_field="who", contributions=4, noise_multiplier=3.0), 2000
    )
    assert plan.sensitivity == pytest.approx(4 * plan.clip_norm)
    assert plan.normalizer == 800
    assert plan.noise_to_batch_ratio == pytest.approx(
        plan.noise_std / (plan.normalizer * plan.clip_norm)
    )


def test_epochs_become_updates() -> None:
    plan = make_plan(recipe(batch=300, max_epochs=3.0, noise_multiplier=2.0), 2000)
    assert plan.steps == 20
    assert plan.noise_multiplier == 2.0


@pytest.mark.parametrize(
    ("batch", "units", "low", "high"),
    [
        # Large batches: 1.2 times; small ones: some standard deviations; never above N.
        (10_000, 100_000, 12_000, 12_000),
        (16, 1000, 30, 45),
        (90, 100, 100, 100),
    ],
)
def test_the_cap(batch: int, units: int, low: int, high: int) -> None:
    plan = make_plan(recipe(batch=batch, noise_multiplier=50.0), units)
    assert low <= plan.cap <= high
    uncut = epsilon_pld(Event(units, batch / units, 50.0, 100), plan.delta)
    assert plan.epsilon == pytest.approx(uncut, rel=0.01)


def test_tuning_runs_and_earlier_releases_are_part_of_the_claim() -> None:
    alone = make_plan(recipe(epsilon=4.0), 2000)
    noise = alone.noise_multiplier
    tuned = make_plan(recipe(epsilon=40.0, tuning_runs=3, noise_multiplier=noise), 2000)
    assert tuned.event == alone.event
    four = alone.event.of(400)
    assert tuned.epsilon == epsilon_pld(four, tuned.delta) > 1.5 * alone.epsilon
    earlier = [Event(2000, 0.1, 3.0, 100)]
    later = make_plan(recipe(epsilon=4.0), 2000, earlier)
    assert later.noise_multiplier > alone.noise_multiplier
    assert later.earlier == tuple(earlier)
    assert epsilon_pld(later.events, later.delta) == later.epsilon <= 4.0


@pytest.mark.parametrize(
    ("privacy", "units", "named"),
    [
        ({"delta": 1e-3}, 2000, "larger than 1/2,000"),
        ({}, 150, "batch.sequences is 200"),
        ({"noise_multiplier": 0.3}, 2000, "more than privacy.epsilon"),
        ({"max_epochs": 0.01}, 2000, "less than one batch"),
        ({}, 1, "fewer than 2"),
    ],
    ids=["delta-above-1-over-n", "batch-above-data", "too-little-noise", "no-update", "one-record"],
)
def test_what_cannot_be_claimed_is_refused(privacy: dict[str, Any], units: int, named: str) -> None:
    with pytest.raises(PrivacyError, match=named):
        make_plan(recipe(**privacy), units)


def test_an_epsilon_that_earlier_releases_used_up_is_refused() -> None:
    with pytest.raises(PrivacyError, match="earlier releases"):
        make_plan(recipe(epsilon=1.0), 2000, [Event(2000, 0.1, 0.5, 100)])


@pytest.fixture(scope="module")
def plan() -> PrivacyPlan:
    """A plan with everything in it."""
    earlier = [Event(2000, 0.1, 5.0, 10), Event(2000, 0.05, 5.0, 10, sampler="epochs")]
    return make_plan(recipe(noise_multiplier=4.0, tuning_runs=1), 2000, earlier)


def test_a_written_plan_is_read_as_it_was(plan: PrivacyPlan) -> None:
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 2.0},
        {"expected_batch": 100},
        {"noise_std": 0.0},
        {"sampling_probability": 0.01},
        {"neighbouring_relation": "add-or-remove"},
        {"units": "2000"},
        {"steps": True},
        {"earlier": {}},
        {"earlier": [{}]},
        {"comment": "trust me"},
    ],
    ids=str,
)
def test_an_edited_plan_is_refused(plan: PrivacyPlan, change: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        PrivacyPlan.from_dict({**plan.to_dict(), **change})


def test_a_plan_that_lacks_a_key_is_refused(plan: PrivacyPlan) -> None:
    data = plan.to_dict()
    del data["delta"]
    with pytest.raises(PrivacyError, match="delta"):
        PrivacyPlan.from_dict(data)
