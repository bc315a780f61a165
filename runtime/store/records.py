"""What the journal's records mean: a header, then changes of versions' states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.store.errors import JournalDamaged
from runtime.store.state import State, StoreState, VersionRecord
from security.errors import CasemateError

FORMAT = "casemate.store/1"
HEADER: Mapping[str, Any] = {"format": FORMAT}


def encode_changes(changes: Iterable[VersionRecord]) -> dict[str, Any]:
    """Return the record of moves that happen as one."""
    return {"changes": [asdict(record) for record in changes]}


def replayed(path: Path, records: Iterable[Mapping[str, Any]]) -> StoreState:
    """Run the journal's records through the state machine.

    Raises:
        JournalDamaged: a record is no change, or breaks an invariant.
    """
    state = StoreState.empty()
    for number, record in enumerate(records):
        if number == 0:
            if record.get("format") != FORMAT:
                raise JournalDamaged(path, 0, f"the format is not {FORMAT}")
            continue
        try:
            state = state.apply(
                [
                    VersionRecord(**{**item, "state": State(item["state"])})
                    for item in record["changes"]
                ]
            )
        except (KeyError, TypeError, ValueError, CasemateError) as error:
            raise JournalDamaged(path, number, str(error)) from error
    return state
