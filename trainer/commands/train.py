"""`casemate train`: pretrain a model, or train a small one from scratch."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.running import Request, execute, run_options


@click.command("train")
@run_options
def command(
    *,
    words: tuple[str, ...],
    output: Path | None,
    ranks: int,
    print_recipe: bool,
    estimate: bool,
    as_json: bool,
) -> None:
    """Train a model by RECIPE, a .toml file or the name of a ready recipe.

    KEY=VALUE changes single values of the recipe, as in run.steps=500; lists are
    separated by commas. Without arguments the ready recipes are listed.

    The run goes to its own folder. When that holds an unfinished run of the same recipe,
    the run is continued; nothing that is there is ever deleted. Start the same command
    under torchrun, srun or mpirun to train on several machines.

    \b
    Example:
      casemate train char-shakespeare-cpu data.train=input.txt
    """
    execute(Request("train", words, output, ranks, print_recipe, estimate, as_json))
