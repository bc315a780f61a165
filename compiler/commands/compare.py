"""`casemate compare`: what one form of a model costs and gains against another."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, json_option, warn
from compiler.commands.compile import quality_text
from compiler.commands.options import FILE, PATH, working

if TYPE_CHECKING:
    from compiler.bundling.comparing import Comparison


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
        "speed_ratios": {name: round(ratio, 3) for name, ratio in found.speed_ratios.items()},
        "quality": None if found.quality is None else found.quality.to_dict(),
    }


def _render(data: dict[str, Any]) -> None:
    before, after = data["size_bytes"]
    click.echo(f"size     {after:,} bytes, {data['size_ratio']:.0%} of {before:,}")
    for name, ratio in data["speed_ratios"].items():
        click.echo(f"speed    {name}: {ratio:.2f} times")
    if data["same_bytes"]:
        click.echo("answers  both are one file")
    else:
        click.echo(f"answers  {quality_text(data['quality'])}")
