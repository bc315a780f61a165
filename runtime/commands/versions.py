"""`casemate versions`: what is in the store, whether the appliance runs or not."""

from __future__ import annotations

from typing import Any

import click

from casemate.cli.output import emit, json_option
from runtime.commands.operating import Site, operator, record_data, site_options, store_if_free


@click.command()
@click.argument("model", required=False)
@site_options
@json_option
def command(site: Site, model: str | None, as_json: bool) -> None:
    """Show the versions of MODEL, or of all models, and their states.

    \b
    Example:
      casemate versions gemma-3-270m
    """
    from casemate.cli.models import model_data, render_models
    from security.errors import UsageError

    with store_if_free(site.config()) as store:
        models: list[dict[str, Any]] = []
        if store is not None:
            for name in sorted({record.name for record in store.versions()}):
                records = store.versions(name)
                versions = [record_data(record) for record in records]
                models.append({"name": name, "task": records[0].task, "versions": versions})
    if store is None:
        with operator(site) as client:
            models = [model_data(found) for found in client.models()]
    shown = [each for each in models if model in {None, each["name"]}]
    if model is not None and not shown:
        raise UsageError(f"no model named {model!r} is in the store")
    emit(as_json, {"models": shown, "running": store is None}, render_models)
