"""`casemate serve`: run the appliance in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runtime.appliance import Appliance


def _report(appliance: Appliance) -> None:
    """Print what runs, and last the line that scripts wait for."""
    click.echo(f"listening on {appliance.address} (TLS 1.3, client certificate required)")
    click.echo(f"metrics on http://{appliance.metrics_address}/metrics")
    listed = appliance.catalog.list().models
    for model in listed:
        for version in model.versions:
            if version.ready:
                digest = version.bundle_digest[:12]
                click.echo(f"model {model.name} {version.version} ({model.task}) {digest}")
    if not listed:
        click.echo("no models installed; install one with: casemate install BUNDLE")
    state = "" if appliance.ready else " with models missing: see the log"
    click.echo(f"ready in {appliance.started_seconds:.1f} s{state}")


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("casemate.toml"),
    show_default=True,
    help="The appliance's configuration, as `casemate init` wrote it.",
)
@click.option("--json-logs", is_flag=True, help="Log JSON, one object a line, on stderr.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the address here once ready; removed when stopped.",
)
def command(config_path: Path, json_logs: bool, ready_file: Path | None) -> None:
    """Run the appliance until SIGTERM or Ctrl-C.

    Prints where it listens, the models it serves and, last, a line that begins with
    "ready". SIGHUP reads the policy file again; certificates and revocation lists
    are followed by themselves. On SIGTERM running calls may end first.

    Example:

        casemate serve --config /etc/casemate/casemate.toml --json-logs
    """
    import asyncio
    import sys

    from runtime.dumps import forbid_core_dumps
    from runtime.front.tls import restrict_tls

    # Before the first key is read.
    forbid_core_dumps()

    # Before anything imports grpc: it reads the allowed suites once.
    restrict_tls()
    from runtime.appliance import serve
    from runtime.config import load_config
    from runtime.logs import set_up_logging

    set_up_logging(as_json=json_logs)

    def on_ready(appliance: Appliance) -> None:
        _report(appliance)
        sys.stdout.flush()

    asyncio.run(serve(load_config(config_path), on_ready, ready_file))
