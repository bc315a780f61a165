from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.store.errors import StoreError
from runtime.store.state import TRANSITIONS, State, StoreState, VersionRecord, moved


def record(version: str = "1.0.0", *, epoch: int = 1, digest: str = "a" * 64) -> VersionRecord:
    return VersionRecord("m", version, digest, "release", "tensor", epoch, State.STAGED, "", 1)


def live(state: StoreState, item: VersionRecord) -> StoreState:
    state = state.apply([item])
    state = state.apply([moved(item, State.PROBING, "", 2)])
    return state.apply([moved(item, State.LIVE, "", 3)])


@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("after", list(State))
def test_only_the_listed_moves_are_possible(before: State, after: State) -> None:
    item = moved(record(), before, "", 1)
    state = StoreState({item.key: item}, {})
    allowed = after in TRANSITIONS[before]
    if allowed:
        assert state.apply([moved(item, after, "", 2)]).versions[item.key].state is after
    else:
        with pytest.raises(StoreError) as raised:
            state.apply([moved(item, after, "", 2)])
        assert raised.value.reason == "transition"


def test_two_live_versions_are_refused() -> None:
    state = live(StoreState.empty(), record("1.0.0"))
    with pytest.raises(StoreError, match="two live"):
        live(state, record("1.1.0"))


def test_a_version_never_changes_its_content() -> None:
    state = StoreState.empty().apply([record()])
    with pytest.raises(StoreError) as raised:
        state.apply([record(digest="b" * 64)])
    assert raised.value.reason == "version-exists"


def test_a_lower_security_epoch_never_goes_live_again() -> None:
    old, new = record("1.0.0", epoch=1), record("2.0.0", epoch=2)
    state = live(StoreState.empty(), old)
    state = state.apply([new]).apply([moved(new, State.PROBING, "", 4)])
    state = state.apply([moved(new, State.LIVE, "", 5), moved(old, State.PREVIOUS, "", 5)])
    with pytest.raises(StoreError) as raised:
        state.apply([moved(old, State.LIVE, "", 6), moved(new, State.PREVIOUS, "", 6)])
    assert raised.value.reason == "epoch-too-low"


def test_within_one_epoch_going_back_is_allowed() -> None:
    old, new = record("1.0.0"), record("1.1.0")
    state = live(StoreState.empty(), old)
    state = state.apply([new]).apply([moved(new, State.PROBING, "", 4)])
    state = state.apply([moved(new, State.LIVE, "", 5), moved(old, State.PREVIOUS, "", 5)])
    state = state.apply([moved(old, State.LIVE, "", 6), moved(new, State.PREVIOUS, "", 6)])
    assert state.in_state("m", State.LIVE) == moved(old, State.LIVE, "", 6)


@given(
    st.lists(
        st.tuples(st.sampled_from(["1.0.0", "1.1.0", "2.0.0"]), st.sampled_from(list(State))),
        max_size=30,
    )
)
def test_no_sequence_of_moves_breaks_an_invariant(steps: list[tuple[str, State]]) -> None:
    epochs = {"1.0.0": 1, "1.1.0": 1, "2.0.0": 2}
    state, highest = StoreState.empty(), 0
    for number, (version, target) in enumerate(steps):
        item = moved(record(version, epoch=epochs[version]), target, "", number)
        before = state
        try:
            state = state.apply([item])
        except StoreError:
            assert state is before
            continue
        if target is State.LIVE:
            assert item.security_epoch >= highest
            highest = max(highest, item.security_epoch)
        states = [found.state for found in state.of("m")]
        assert states.count(State.LIVE) <= 1
        assert states.count(State.PREVIOUS) <= 1
