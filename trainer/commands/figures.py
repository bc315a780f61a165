"""Figures of `casemate evaluate` for a person."""

from __future__ import annotations

from typing import Any

import click

from casemate.cli.output import counted, table
from trainer.commands.summary import figure


def render_result(data: dict[str, Any]) -> None:
    """Print an evaluation on data: figures, and per label what was found."""
    click.echo(
        f"{data['objective']} on {counted(data['examples'], 'example', 'examples')}, "
        f"{counted(data['targets'], 'target', 'targets')}, {data['seconds']:.1f} s"
    )
    rows = [["loss", figure(data["loss"]), ""]]
    for name, value in data["metrics"].items():
        low_high = data["intervals"].get(name)
        spread = "" if low_high is None else f"{figure(low_high[0])} to {figure(low_high[1])}"
        rows.append([name.replace("_", " "), figure(value), spread])
    table(["figure", "value", "95% interval"], rows)
    if data["per_label"]:
        click.echo()
        heads = ["precision", "recall", "f1", "support"]
        table(
            ["label", *heads],
            [
                [label, *(figure(each.get(head, "-")) for head in heads)]
                for label, each in data["per_label"].items()
            ],
        )
    for note in data["notes"]:
        click.echo(f"note: {note}")


def render_neighbours(data: dict[str, Any]) -> None:
    """Print the nearest words of one."""
    table(
        ["similarity", "word"],
        [[f"{each['similarity']:.4f}", each["word"]] for each in data["nearest"]],
    )


def render_text(data: dict[str, Any]) -> None:
    """Print a text's probability: every token, the whole, and what would come next."""
    for token in data["tokens"]:
        shown = "-" if token["logprob"] is None else f"{token['logprob']:.4f}"
        click.echo(f"{shown:>9}  {token['token']!r}")
    click.echo()
    rows = [
        (f"{data['measure']} (nats)", data["total_logprob"]),
        ("tokens scored", data["scored_tokens"]),
        ("perplexity", data["perplexity"]),
        ("bits per byte", data["bits_per_byte"]),
    ]
    for name, value in rows:
        if value is not None:
            click.echo(f"{name:<32}  {figure(value)}")
    if data["next"]:
        click.echo()
        table(
            ["probability", "next"],
            [[f"{each['probability']:.4f}", repr(each["token"])] for each in data["next"]],
        )
