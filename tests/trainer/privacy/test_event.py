"""Events: what they refuse, and that they come back as they were written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.privacy.errors import PrivacyError
from trainer.privacy.event import SAMPLERS, Event, compose

EVENTS = st.builds(
    Event,
    units=st.integers(1, 10**7),
    sampling_probability=st.floats(1e-6, 1.0),
    noise_multiplier=st.floats(0.0, 1e3),
    steps=st.integers(1, 10**6),
    cap=st.none() | st.integers(1, 10**7),
    sampler=st.sampled_from(SAMPLERS),
)


@given(EVENTS)
def test_what_was_written_is_read(event: Event) -> None:
    assert Event.from_dict(json.loads(json.dumps(event.to_dict()))) == event


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"units": 0}, "units"),
        ({"sampling_probability": 0.0}, "sampling probability"),
        ({"sampling_probability": 1.5}, "sampling probability"),
        ({"noise_multiplier": -1.0}, "noise multiplier"),
        ({"noise_multiplier": float("nan")}, "noise multiplier"),
        ({"noise_multiplier": float("inf")}, "noise multiplier"),
        ({"steps": 0}, "updates"),
        ({"cap": 0}, "at most 0"),
        ({"sampler": "seeded"}, "seeded"),
    ],
    ids=str,
)
def test_what_describes_no_mechanism_is_refused(values: dict[str, object], named: str) -> None:
    good = {"units": 100, "sampling_probability": 0.1, "noise_multiplier": 1.0, "steps": 10}
    with pytest.raises(PrivacyError, match=named):
        Event(**{**good, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": None},
        {"steps": True},
        {"steps": 1.0},
        {"noise_multiplier": "1"},
        {"sampler": 1},
        {"cap": 2.5},
        {"seed": 1},
    ],
    ids=str,
)
def test_odd_json_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(PrivacyError):
        Event.from_dict({**Event(100, 0.1, 1.0, 10).to_dict(), **change})


def test_a_missing_key_is_refused() -> None:
    data = Event(100, 0.1, 1.0, 10).to_dict()
    del data["sampler"]
    with pytest.raises(PrivacyError, match="keys"):
        Event.from_dict(data)


@given(st.lists(EVENTS.map(lambda event: event.of(event.steps % 50 + 1)), max_size=8))
def test_composing_keeps_the_updates_of_each_mechanism(events: list[Event]) -> None:
    found = compose(events)
    assert len({event.of(1) for event in found}) == len(found)
    for event in found:
        alike = [each.steps for each in events if each.of(1) == event.of(1)]
        assert event.steps == sum(alike)
    assert sum(event.steps for event in found) == sum(event.steps for event in events)
