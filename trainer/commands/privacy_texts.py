"""`casemate privacy synthesize` and `check`: texts of a private model, and their claim.

Each command imports what it needs when it is called; help stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from casemate.cli.output import emit, json_option, progress
from trainer.commands.evaluate import model_folder
from trainer.commands.options import device_option


@click.command("synthesize")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--count", type=int, required=True, help="Texts to write.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File of texts, JSONL; its claim is written beside it.",
)
@click.option("--prompt", multiple=True, help="Public beginning of texts; may be repeated.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of public beginnings, one a line.",
)
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0: the likeliest.")
@click.option("--top-k", type=int, default=0, help="Choose from so many tokens; 0: all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="From this share.")
@click.option("--max-tokens", type=int, default=0, help="New tokens of a text; 0: as in training.")
@click.option("--seed", type=int, help="The same texts again.  [default: none]")
@click.option("--batch", type=int, default=32, show_default=True, help="At a time.")
@device_option
@json_option
def synthesize_command(
    *,
    checkpoint: Path,
    count: int,
    output: Path,
    prompt: tuple[str, ...],
    prompts: Path | None,
    device: str,
    as_json: bool,
    **drawing: Any,
) -> None:
    """Write texts like the private ones, with the claim of CHECKPOINT's privacy.json.

    For tests of a site that may not see the data. Any number of texts has the model's own
    epsilon, because nothing but its weights is looked at; prompts must be public.

    \b
    Example:
      casemate privacy synthesize runs/tickets --count 1000 -o tickets.jsonl
      casemate privacy check tickets.jsonl --model runs/tickets
    """
    from trainer.privacy.synthesis.settings import Sampling

    sampling = Sampling(**drawing)
    model_folder(checkpoint)
    with progress("verifying", lines=True) as relabel:
        from trainer.commands.privacy_synthesize import render_samples, samples_of

        found = samples_of(
            checkpoint,
            output,
            count,
            sampling=sampling,
            prompt=prompt,
            prompts=prompts,
            device=device,
            progress=relabel,
        )
    emit(as_json, found, render_samples)


@click.command("check")
@click.argument("samples", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The checkpoint that wrote them: hold the claim against its privacy.json too.",
)
@json_option
def check_command(*, samples: Path, model: Path | None, as_json: bool) -> None:
    """Hold SAMPLES of `synthesize` against the claim beside them.

    \b
    Example:
      casemate privacy check tickets.jsonl --model runs/tickets
    """
    with progress("verifying", lines=True):
        from trainer.commands.privacy_synthesize import checked, render_checked

        found = checked(samples, model)
    emit(as_json, found, render_checked)
