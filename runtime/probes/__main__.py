"""`python -m runtime.probes record BUNDLE`: record the probes of an unsigned bundle."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from security.errors import CasemateError


@click.group()
def main() -> None:
    """Golden requests of a bundle."""


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--memory-limit-mib", default=4096, show_default=True, help="Memory of the worker.")
def record(bundle: Path, memory_limit_mib: int) -> None:
    """Run BUNDLE once and write its probes.jsonl; sign it afterwards."""
    from runtime.probes.record import record as run
    from runtime.worker.settings import WorkerConfig

    probes = run(bundle, WorkerConfig(memory_limit_mib=memory_limit_mib))
    click.echo(f"recorded {len(probes)} probes in {bundle / 'probes.jsonl'}")


if __name__ == "__main__":
    try:
        main(prog_name="python -m runtime.probes")
    except CasemateError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
