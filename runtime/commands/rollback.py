"""`casemate rollback`: go back to the version that was live before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, json_option
from runtime.commands.operating import (
    Site,
    operation_data,
    operator,
    record_data,
    render_operation,
    site_options,
    store_if_free,
)
from security.errors import UsageError

if TYPE_CHECKING:
    from runtime.store.store import Store


@click.command()
@click.argument("model")
@site_options
@json_option
def command(site: Site, model: str, as_json: bool) -> None:
    """Make the previous version of MODEL live again, at once.

    It also works while the appliance is not running: the next start then serves the
    previous version.

    \b
    Example:
      casemate rollback gemma-3-270m
    """
    with store_if_free(site.config()) as store:
        if store is not None:
            data = rollback_offline(store, model)
    if store is None:
        with operator(site) as client:
            data = operation_data(client.rollback(model))
    emit(as_json, data, render_operation)


def rollback_offline(store: Store, model: str) -> dict[str, Any]:
    """Let live and previous change places in a store that no appliance has open."""
    from runtime.store.state import State

    live = store.state.in_state(model, State.LIVE)
    previous = store.state.in_state(model, State.PREVIOUS)
    if previous is None:
        raise UsageError(f"{model} has no previous version to go back to")
    moves = [(previous, State.LIVE, "rolled back")]
    if live is not None:
        moves.append((live, State.PREVIOUS, f"rolled back to {previous.version}"))
    store.move(*moves)
    record = store.get(model, previous.version)
    return {"model": model, **record_data(record), "probes_passed": 0}
