"""`casemate top`: a live view of a running appliance, from its metrics."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.connection import interruptible
from casemate.cli.output import console, emit, json_option, table
from security.errors import CasemateError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from runtime.commands.metrics_view import Reading

FETCH_TIMEOUT_SECONDS = 5.0
MAX_METRICS_BYTES = 8 << 20
_HEADINGS = ["model", "run", "wait", "gen tok/s", "in tok/s", "ttft p50", "p99", "kv", "prefix"]


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CASEMATE_CONFIG",
    default=Path("casemate.toml"),
    show_default=True,
    help="Where to find the metrics address.",
)
@click.option("--url", help="Metrics address instead, such as http://127.0.0.1:9464/metrics.")
@click.option("--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True)
@click.option("--once", is_flag=True, help="Print one view, over one interval, and leave.")
@json_option
def command(
    *, config_path: Path, url: str | None, interval: float, once: bool, as_json: bool
) -> None:
    """Watch models, load, speed, refusals and the audit log; Ctrl-C leaves.

    \b
    Examples:
      casemate top
      casemate top --once --json
    """
    from runtime.commands.metrics_view import view

    address = url or _address(config_path)
    if as_json and not once:
        raise UsageError("--json needs --once: a live view is not one document")
    with interruptible():
        before = _fetch(address)
        time.sleep(interval)
        now = _fetch(address)
        if once:
            emit(as_json, view(now, before), _render)
            return
        _watch(address, interval, before, now)


def _watch(address: str, interval: float, before: Reading, now: Reading) -> None:
    from rich.live import Live

    from runtime.commands.metrics_view import view

    with Live(_live_table(view(now, before)), console=console(), screen=True) as live:
        while True:
            time.sleep(interval)
            before, now = now, _fetch(address)
            live.update(_live_table(view(now, before)))


def _address(config_path: Path) -> str:
    from runtime.config import load_config

    if not config_path.is_file():
        raise UsageError(f"there is no {config_path}; give --config FILE or --url URL")
    return f"http://{load_config(config_path).metrics_listen}/metrics"


def _fetch(address: str) -> Reading:
    from runtime.commands.metrics_view import read_metrics

    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{address} is no http address")
    try:
        with urllib.request.urlopen(address, timeout=FETCH_TIMEOUT_SECONDS) as answer:  # noqa: S310 - checked above
            text = answer.read(MAX_METRICS_BYTES).decode()
        return read_metrics(text, time.monotonic())
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise CasemateError(
            f"no metrics at {address}: {reason}; is the appliance running?"
        ) from error
    except ValueError as error:
        raise CasemateError(f"{address} does not answer with metrics") from error


def rows(data: dict[str, Any]) -> list[list[str]]:
    """Return one row of text per model."""
    return [
        [
            model["name"],
            str(model["running"]),
            str(model["waiting"]),
            _number(model["generated_tokens_per_second"], "{:.0f}"),
            _number(model["prompt_tokens_per_second"], "{:.0f}"),
            _number(model["ttft_p50_seconds"], "{:.3f} s"),
            _number(model["ttft_p99_seconds"], "{:.3f} s"),
            _number(model["kv_cache_usage"], "{:.0%}"),
            _number(model["prefix_hit_rate"], "{:.0%}"),
        ]
        for model in data["models"]
    ]


def summary(data: dict[str, Any]) -> str:
    """Return the line below the table."""
    refused = ", ".join(f"{reason} {count}" for reason, count in data["denials"].items())
    health = "takes entries" if data["audit_healthy"] else "TAKES NO ENTRIES"
    return (
        f"open calls {data['open_calls']} | audit log {data['audit_entries']} entries, {health} | "
        f"refused: {refused or 'none'}"
    )


def _number(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def _render(data: dict[str, Any]) -> None:
    table(_HEADINGS, rows(data))
    click.echo(summary(data))


def _live_table(data: dict[str, Any]) -> Table:
    from rich.table import Table

    shown = Table(title="casemate top", caption=summary(data), expand=True)
    for number, heading in enumerate(_HEADINGS):
        shown.add_column(heading, justify="left" if number == 0 else "right")
    for row in rows(data):
        shown.add_row(*row)
    return shown
