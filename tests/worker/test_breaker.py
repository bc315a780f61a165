"""When a worker is started again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.worker.breaker import BreakerLimits, RestartBreaker

LIMITS = BreakerLimits(
    restart_limit=3, window_seconds=10.0, backoff_seconds=0.1, backoff_max_seconds=1.0
)


def breaker() -> RestartBreaker:
    return RestartBreaker(LIMITS, random.Random(1))


def test_a_first_crash_is_retried_soon() -> None:
    subject = breaker()
    subject.record_crash(100.0)
    assert subject.state.value == "closed"
    assert 0.05 <= subject.delay(100.0) <= 0.1
    assert subject.delay(101.0) == 0


def test_the_delay_grows() -> None:
    subject = breaker()
    subject.record_crash(100.0)
    first = subject.delay(100.0)
    subject.record_crash(101.0)
    assert subject.delay(101.0) >= first


def test_it_opens_at_the_limit_for_one_window() -> None:
    subject = breaker()
    for now in (100.0, 101.0, 102.0):
        subject.record_crash(now)
    assert subject.state.value == "open"
    assert subject.delay(102.0) == pytest.approx(10.0)


def test_crashes_outside_the_window_do_not_count() -> None:
    subject = breaker()
    for now in (100.0, 120.0, 140.0, 160.0):
        subject.record_crash(now)
    assert subject.state.value == "closed"


def opened() -> RestartBreaker:
    subject = breaker()
    for now in (100.0, 100.0, 100.0):
        subject.record_crash(now)
    return subject


def test_a_start_before_its_time_leaves_it_open() -> None:
    subject = opened()
    subject.start_attempt(105.0)
    assert subject.state.value == "open"


def test_a_trial_that_crashes_opens_it_for_longer() -> None:
    subject = opened()
    subject.start_attempt(110.0)
    assert subject.state.value == "half-open"
    subject.record_crash(111.0)
    assert subject.state.value == "open"
    assert subject.delay(111.0) == pytest.approx(20.0)


def test_a_trial_that_lives_for_a_window_closes_it() -> None:
    subject = opened()
    subject.start_attempt(110.0)
    subject.settle(120.5)
    assert subject.state.value == "closed"
    subject.record_crash(121.0)
    assert subject.state.value == "closed"


@given(st.lists(st.floats(min_value=0.0, max_value=30.0), max_size=40))
def test_the_delay_is_always_bounded(gaps: list[float]) -> None:
    subject = breaker()
    now = 0.0
    for gap in gaps:
        now += gap
        subject.start_attempt(now)
        subject.record_crash(now)
        assert 0 <= subject.delay(now) <= LIMITS.window_seconds * 16 + 1e-6
