"""Options that several commands of the trainer take."""

from __future__ import annotations

import click

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
batch_option = click.option(
    "--batch", type=click.IntRange(1), default=16, show_default=True, help="At a time."
)
