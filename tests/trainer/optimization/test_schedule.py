"""Learning-rate schedules: bounded, continuous, and where they should be at both ends."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.optimization.schedule import learning_rate_factor
from trainer.recipe.schema import OptimizerOptions

SCHEDULES = ("constant", "linear", "cosine", "warmup-stable-decay", "inverse-square-root")
FALLING = ("linear", "cosine", "warmup-stable-decay")


@st.composite
def _runs(draw: st.DrawFn, schedules: tuple[str, ...] = SCHEDULES) -> tuple[OptimizerOptions, int]:
    total = draw(st.integers(1, 400))
    options = OptimizerOptions(
        schedule=draw(st.sampled_from(schedules)),
        warmup_steps=draw(st.integers(0, total)),
        decay_fraction=draw(st.floats(0, 1)),
        final_fraction=draw(st.floats(0, 1)),
    )
    return options, total


def _factors(options: OptimizerOptions, total: int) -> list[float]:
    return [learning_rate_factor(step, options, total) for step in range(total + 1)]


@settings(max_examples=150)
@given(_runs())
def test_factors_are_shares_of_the_peak_and_every_update_moves(
    run: tuple[OptimizerOptions, int],
) -> None:
    factors = _factors(*run)
    assert all(0 <= factor <= 1 for factor in factors)
    assert all(factor > 0 for factor in factors[:-1])


@settings(max_examples=150)
@given(_runs())
def test_it_rises_to_the_peak_during_the_warm_up_and_never_again(
    run: tuple[OptimizerOptions, int],
) -> None:
    options, total = run
    factors = _factors(options, total)
    warmup = options.warmup_steps
    rising = factors[:warmup]
    assert all(low < high for low, high in itertools.pairwise(rising))
    falling = factors[warmup:]
    assert falling[0] == pytest.approx(1) or warmup == total
    assert all(high >= low - 1e-12 for high, low in itertools.pairwise(falling))


@settings(max_examples=150)
@given(_runs(FALLING))
def test_falling_schedules_end_at_the_final_share(run: tuple[OptimizerOptions, int]) -> None:
    options, total = run
    holds = options.schedule == "warmup-stable-decay" and round(options.decay_fraction * total) == 0
    end = learning_rate_factor(total, options, total)
    if options.warmup_steps == total or holds:
        assert end == 1
    else:
        assert end == pytest.approx(options.final_fraction)


@settings(max_examples=150)
@given(_runs())
def test_one_step_never_jumps(run: tuple[OptimizerOptions, int]) -> None:
    options, total = run
    factors = _factors(options, total)
    warmup = options.warmup_steps
    falling = total - warmup
    if options.schedule == "warmup-stable-decay":
        falling = min(falling, round(options.decay_fraction * total))
    # The steepest slopes: a line over the warm-up, a half cosine over what falls, and
    # 1 - sqrt((w + 1) / (w + 2)) after the warm-up of the inverse square root.
    steepest = max(1 / (warmup + 1), math.pi / 2 / max(falling, 1))
    for before, after in itertools.pairwise(factors):
        assert abs(after - before) <= steepest + 1e-9


@given(_runs(), st.integers(0, 1000))
def test_it_stays_at_its_last_value_beyond_the_end(
    run: tuple[OptimizerOptions, int], beyond: int
) -> None:
    options, total = run
    end = learning_rate_factor(total, options, total)
    assert learning_rate_factor(total + beyond, options, total) == end


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("linear", 0, 1 / 11),
        ("linear", 9, 10 / 11),
        ("linear", 10, 1.0),
        ("linear", 60, 0.55),
        ("cosine", 60, 0.55),
        ("cosine", 35, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.25))),
        ("warmup-stable-decay", 79, 1.0),
        ("warmup-stable-decay", 80, 1.0),
        ("warmup-stable-decay", 95, 0.55),
        ("inverse-square-root", 43, 0.5),
        ("constant", 109, 1.0),
    ],
)
def test_known_points(schedule: str, step: int, factor: float) -> None:
    options = OptimizerOptions(
        schedule=schedule, warmup_steps=10, decay_fraction=30 / 110, final_fraction=0.1
    )
    assert learning_rate_factor(step, options, 110) == pytest.approx(factor)


def test_the_inverse_square_root_has_a_floor() -> None:
    options = OptimizerOptions(schedule="inverse-square-root", warmup_steps=0, final_fraction=0.2)
    assert learning_rate_factor(0, options, 1000) == 1
    assert learning_rate_factor(999, options, 1000) == 0.2


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_steps_that_do_not_exist_are_refused(step: int, total: int) -> None:
    with pytest.raises(ValueError, match="no learning rate"):
        learning_rate_factor(step, OptimizerOptions(), total)
