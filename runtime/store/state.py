"""What the store holds, as a pure state machine: no files, no clock.

A change is a batch of moves that happens as one: the live version becoming
previous and the next becoming live are one record, so there is no moment, and no
crash, between them. Invariants, checked on every change, replayed ones included:

- a model has at most one live and at most one previous version;
- a version's content never changes: one digest per (name, version), for ever;
- no version goes live whose security epoch is below the highest that was live;
- revoked is final.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from runtime.store.errors import StoreError

Key = tuple[str, str]


class State(StrEnum):
    """Where a version is in its life."""

    STAGED = "staged"
    PROBING = "probing"
    LIVE = "live"
    PREVIOUS = "previous"
    RETIRED = "retired"
    REVOKED = "revoked"
    FAILED = "failed"


# From each state, where a version may go. None: it was not in the store.
TRANSITIONS: Mapping[State | None, frozenset[State]] = MappingProxyType(
    {
        None: frozenset({State.STAGED}),
        State.STAGED: frozenset({State.STAGED, State.PROBING, State.RETIRED, State.REVOKED}),
        State.PROBING: frozenset({State.STAGED, State.LIVE, State.FAILED, State.REVOKED}),
        State.LIVE: frozenset({State.PREVIOUS, State.RETIRED, State.FAILED, State.REVOKED}),
        State.PREVIOUS: frozenset({State.LIVE, State.RETIRED, State.FAILED, State.REVOKED}),
        State.RETIRED: frozenset({State.PROBING, State.REVOKED}),
        State.FAILED: frozenset({State.STAGED, State.REVOKED}),
        State.REVOKED: frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of one model.

    Attributes:
        name: the model's name.
        version: semantic version, text.
        digest: 64 hex digits, the bundle's signed subject digest.
        signer: the name of the keys that signed it.
        task: "generate", "embed", "classify" or "tensor".
        security_epoch: see the module's invariants.
        state: where it is in its life.
        reason: why it is there, for a person.
        since_ms: when it came there, milliseconds since the Unix epoch.
        awaiting_start: it was installed while no appliance ran, and is to be probed
            and made live when one starts.
    """

    name: str
    version: str
    digest: str
    signer: str
    task: str
    security_epoch: int
    state: State
    reason: str
    since_ms: int
    awaiting_start: bool = False

    @property
    def key(self) -> Key:
        """What identifies it."""
        return (self.name, self.version)

    @property
    def folder(self) -> str:
        """Its folder below bundles/."""
        return f"{self.name}/{self.version}-{self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class StoreState:
    """Every version, and each model's security epoch floor. Immutable."""

    versions: Mapping[Key, VersionRecord]
    floors: Mapping[str, int]

    @classmethod
    def empty(cls) -> StoreState:
        """Return the state of a new store."""
        return cls(MappingProxyType({}), MappingProxyType({}))

    def of(self, name: str) -> tuple[VersionRecord, ...]:
        """Return one model's versions, newest state change first."""
        own = [record for record in self.versions.values() if record.name == name]
        return tuple(sorted(own, key=lambda record: record.since_ms, reverse=True))

    def in_state(self, name: str, state: State) -> VersionRecord | None:
        """Return the model's version in `state` (the newest, where there may be several)."""
        return next((record for record in self.of(name) if record.state is state), None)

    def apply(self, changes: Iterable[VersionRecord]) -> StoreState:
        """Return the state after `changes`, all of them at once.

        Raises:
            StoreError: an invariant of this module would break; nothing changes.
        """
        versions = dict(self.versions)
        floors = dict(self.floors)
        touched: set[str] = set()
        for change in changes:
            _check_move(versions.get(change.key), change, floors.get(change.name, 0))
            versions[change.key] = change
            touched.add(change.name)
            if change.state is State.LIVE:
                floors[change.name] = max(floors.get(change.name, 0), change.security_epoch)
        after = StoreState(MappingProxyType(versions), MappingProxyType(floors))
        for name in touched:
            _check_single(after, name)
        return after


def moved(
    record: VersionRecord, state: State, reason: str, since_ms: int, *, awaiting_start: bool = False
) -> VersionRecord:
    """Return the record in its next state."""
    return replace(
        record, state=state, reason=reason, since_ms=since_ms, awaiting_start=awaiting_start
    )


def _check_move(before: VersionRecord | None, after: VersionRecord, floor: int) -> None:
    allowed = TRANSITIONS[before.state if before else None]
    if before is not None and before.digest != after.digest:
        raise StoreError(
            "version-exists",
            f"{after.name} {after.version} is in the store with other content "
            f"({before.digest[:12]}, not {after.digest[:12]}); a version never changes: "
            "give the new content a new version",
        )
    if after.state not in allowed:
        was = before.state.value if before else "not in the store"
        raise StoreError(
            "transition",
            f"{after.name} {after.version} is {was} and cannot become {after.state.value}",
        )
    if after.state is State.LIVE and after.security_epoch < floor:
        raise StoreError(
            "epoch-too-low",
            f"{after.name} {after.version} has security epoch {after.security_epoch}, below "
            f"{floor}, the highest that was live here; it may not go live again",
        )


def _check_single(state: StoreState, name: str) -> None:
    for single in (State.LIVE, State.PREVIOUS):
        found = [record.version for record in state.of(name) if record.state is single]
        if len(found) > 1:
            raise StoreError(
                "transition", f"{name} would have two {single.value} versions: {', '.join(found)}"
            )
