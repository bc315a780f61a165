"""`casemate compare`: what one form of a model costs and gains against another."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, json_option, warn
from casemate.cli.quality import quality_text
from compiler.commands.options import FILE, PATH, working

if TYPE_CHECKING:
    from compiler.bundling.comparing import Comparison, Timing


@click.command("compare")
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--data", type=FILE, help="Texts to judge on, one a line.")
@click.option("--labelled", type=FILE, help="For classifiers: .tsv, .csv or .jsonl with labels.")
@click.option("--speed/--no-speed", default=True, help="Time both on this machine.")
@json_option
def command(first: Path, second: Path, as_json: bool, **options: Any) -> None:
    """Compare the model SECOND with FIRST: size, speed, and how far its answers are.

    Both may be anything that can be compiled: files, directories or bundles. Decoders are
    judged by KL divergence, perplexity and first choices, which needs --data; embedders by
    the rank correlation of similarities; classifiers by their distributions, and by their
    accuracy where --labelled gives texts with their labels.

    \b
    Examples:
      casemate compare gemma.gguf gemma-q4_0.gguf --data wikitext.txt
      casemate compare minilm/ minilm-int8/ --json
    """
    from compiler.bundling.comparing import compare_models
    from compiler.bundling.labelled import texts_of

    texts = texts_of(options["data"], options["labelled"])
    speed = options["speed"]
    with (
        working("comparing", second) as progress,
        tempfile.TemporaryDirectory(prefix="casemate-compare-") as work,
    ):
        found = compare_models(first, second, Path(work), texts, timed=speed, progress=progress)
    if found.quality is None:
        warn("answers were not compared: give texts with --data")
    emit(as_json, _described(first, second, found), _render)


def _described(first: Path, second: Path, found: Comparison) -> dict[str, Any]:
    return {
        "first": str(first),
        "second": str(second),
        "size_bytes": list(found.sizes),
        "size_ratio": round(found.sizes[1] / found.sizes[0], 4),
        "same_bytes": found.same_bytes,
        "speed_ratios": {name: round(one.ratio.median, 3) for name, one in found.speeds.items()},
        "speeds": {name: _speed(one) for name, one in found.speeds.items()},
        "quality": None if found.quality is None else found.quality.to_dict(),
    }


def _speed(one: Timing) -> dict[str, Any]:
    return {
        "times": round(one.ratio.median, 3),
        "low": round(one.ratio.low, 3),
        "high": round(one.ratio.high, 3),
        "rounds": one.rounds,
        "first_per_second": round(one.first, 2),
        "second_per_second": round(one.second, 2),
    }


def _render(data: dict[str, Any]) -> None:
    from compiler.report.page import rate_name

    before, after = data["size_bytes"]
    click.echo(f"size     {after:,} bytes, {data['size_ratio']:.0%} of {before:,}")
    if data["same_bytes"]:
        click.echo("speed    the same: both are one file")
        click.echo("answers  the same")
        return
    for name, one in data["speeds"].items():
        low, high = one["low"], one["high"]
        doubt = ", no difference beyond noise" if low <= 1 <= high else ""
        click.echo(
            f"speed    {rate_name(name)}: {one['times']:.2f} times ({low:.2f} to {high:.2f}, "
            f"{one['rounds']} rounds{doubt}), {one['first_per_second']:,.1f} -> "
            f"{one['second_per_second']:,.1f} a second"
        )
    if data["quality"] is None:
        click.echo("answers  not compared")
    else:
        click.echo(f"answers  {quality_text(data['quality'])}")
