"""What `casemate train` and `casemate finetune` have in common: from words to a run.

    1  read the recipe and the overrides
    2  only print it, or only estimate, where that was asked
    3  look whether what it refers to is there, and what the output folder holds
    4  start the ranks of this machine, or run as the rank this process is

Steps 1 to 3 import nothing heavy and change nothing. A rank that a launcher started
(torchrun, srun, mpirun, or step 4 itself) goes through all of them; only the first prints.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from casemate.cli.output import emit, json_option, progress
from security.errors import UsageError
from trainer.commands.listing import listing, render_listing
from trainer.commands.preflight import check_private, check_ranks, check_recipe
from trainer.commands.run_folder import default_folder, examine
from trainer.commands.summary import render_summary
from trainer.recipe.describe import all_values, describe
from trainer.recipe.parse import LoadedRecipe, load_recipe
from trainer.recipe.schema import Recipe

# 128 and the number of SIGINT.
EXIT_STOPPED = 130

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for on the command line.

    Attributes:
        command: "train" or "finetune".
        words: the recipe, then overrides; empty lists the ready recipes.
        output: the run's folder; None is runs/NAME.
        ranks: processes to start on this machine; 1 starts none.
        print_recipe: print the values with their meanings and stop.
        estimate: print what the run would need and stop.
        as_json: print the result as JSON.
    """

    command: str
    words: tuple[str, ...]
    output: Path | None
    ranks: int
    print_recipe: bool
    estimate: bool
    as_json: bool


def run_options(function: F) -> F:
    """Add the arguments that both commands take."""
    for decorate in (
        json_option,
        click.option("--estimate", is_flag=True, help="Print size and memory, and stop."),
        click.option(
            "--print-recipe", is_flag=True, help="Print every value with its meaning, and stop."
        ),
        click.option(
            "--ranks",
            type=click.IntRange(1, 1024),
            default=1,
            show_default=True,
            help="Processes to share the work on this machine.",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            help="Folder of the run.  [default: runs/NAME of the recipe]",
        ),
        click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]..."),
    ):
        function = decorate(function)
    return function


def execute(request: Request, overrides: tuple[str, ...] = ()) -> None:
    """Do what was asked; `overrides` come after those on the command line.

    Raises:
        CasemateError: see the modules of the numbered steps.
    """
    if not request.words:
        _without_recipe(request)
        return
    loaded = _read(request, overrides)
    if request.print_recipe:
        _print_recipe(request, loaded.recipe)
        return
    if request.estimate:
        from trainer.commands.estimate import estimate, render_estimate

        emit(request.as_json, estimate(loaded.recipe, request.ranks), render_estimate)
        return
    if request.command == "finetune" and not loaded.recipe.model.source:
        raise UsageError("finetuning starts from a model: give --model DIRECTORY")
    check_recipe(loaded)
    check_private(loaded)
    check_ranks(loaded.recipe, request.ranks)
    folder = request.output or default_folder(loaded)
    state = examine(folder, loaded)
    if request.ranks > 1:
        _start_ranks(request, overrides)
        return
    _run(request, loaded, folder, state == "continue")


def _without_recipe(request: Request) -> None:
    if request.print_recipe:
        _print_recipe(request, Recipe())
    elif request.estimate:
        raise UsageError("say of which recipe: casemate train RECIPE --estimate")
    else:
        emit(request.as_json, listing(request.command == "finetune"), render_listing)


def _read(request: Request, overrides: tuple[str, ...]) -> LoadedRecipe:
    source, *given = request.words
    if "=" in source and not Path(source).exists():
        raise UsageError(
            f"{source} is an override; name the recipe first: "
            f"casemate {request.command} RECIPE {source}"
        )
    return load_recipe(source, (*given, *overrides))


def _print_recipe(request: Request, recipe: Recipe) -> None:
    emit(request.as_json, all_values(recipe), lambda _: click.echo(describe(recipe), nl=False))


def _start_ranks(request: Request, overrides: tuple[str, ...]) -> None:
    """Start this command again as several ranks, and end as they do."""
    from trainer.distribution.environment import resolve
    from trainer.distribution.launch import launch

    if resolve(os.environ).launcher != "single":
        raise UsageError("--ranks is for one machine without a launcher; leave it out here")
    words = [*request.words, *overrides]
    # -P: a current directory lends no modules.
    command = [sys.executable, "-P", "-m", "casemate.cli.main", "train", *words]
    if request.output is not None:
        command += ["--output", str(request.output)]
    if request.as_json:
        command.append("--json")
    code = launch(command, request.ranks)
    if code:
        sys.exit(code)


def _run(request: Request, loaded: LoadedRecipe, folder: Path, continued: bool) -> None:
    with progress("loading the trainer", lines=True):
        from trainer.distribution.environment import resolve
        from trainer.loop.session import run

    first = resolve(os.environ).is_first
    if continued and first:
        click.echo(f"continuing the run in {folder}", err=True)
    summary: Mapping[str, Any] | None = run(loaded, folder)
    if not first or summary is None:
        return
    emit(request.as_json, dict(summary), render_summary)
    if not summary.get("finished", True):
        # What a shell says of a command that Ctrl-C ended: nothing may follow on "&&".
        sys.exit(EXIT_STOPPED)
