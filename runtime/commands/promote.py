"""`casemate promote`: make a version that is in the store live."""

from __future__ import annotations

import click

from casemate.cli.output import emit, json_option, progress
from runtime.commands.operating import (
    Site,
    operation_data,
    operator,
    render_operation,
    site_options,
    store_if_free,
)
from security.errors import UsageError


@click.command()
@click.argument("model")
@click.argument("version")
@site_options
@json_option
def command(site: Site, model: str, version: str, as_json: bool) -> None:
    """Load VERSION of MODEL beside the live one, probe it, and switch to it.

    \b
    Example:
      casemate promote gemma-3-270m 1.1.0
    """
    with store_if_free(site.config()) as store:
        if store is not None:
            store.get(model, version)
            raise UsageError(
                "the appliance is not running, and a version goes live only after its probes "
                "pass: start it with 'casemate serve'"
            )
    with progress("loading and probing"), operator(site) as client:
        done = client.promote(model, version)
    emit(as_json, operation_data(done), render_operation)
