"""`casemate privacy`: plan a private run, keep its ledger, audit what came out, sample from it.

Each sub-command imports what it needs when it is called; help stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from casemate.cli.output import emit, json_option, progress
from security.errors import UsageError
from trainer.commands.privacy_evidence import audit_command, compare_command
from trainer.commands.privacy_texts import check_command, synthesize_command
from trainer.recipe.describe import toml_value
from trainer.recipe.parse import LoadedRecipe, load_recipe

# Options of `plan` that stand for values of a recipe.
_KEYS = {
    "batch": "batch.sequences",
    "steps": "run.steps",
    "epochs": "privacy.max_epochs",
    "epsilon": "privacy.epsilon",
    "delta": "privacy.delta",
    "noise_multiplier": "privacy.noise_multiplier",
    "tuning_runs": "privacy.tuning_runs",
    "ledger": "privacy.ledger",
    "dataset": "privacy.dataset",
}
# Without a recipe these say what is asked; everything else has its default.
_NEEDED = "--examples, --batch, and --steps or --epochs"


@click.group("privacy")
def command() -> None:
    """Plan private finetuning, keep the ledger of releases, audit a checkpoint, sample from it."""


@command.command("plan")
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--examples", type=click.IntRange(1), help="Records (or users); counted if left out.")
@click.option("--batch", type=click.IntRange(1), help="Expected records of a batch.")
@click.option("--steps", type=click.IntRange(1), help="Updates.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Instead of --steps.")
@click.option("--epsilon", type=float, help="Of the claim.  [default: 8]")
@click.option("--delta", type=float, help="Of the claim.  [default: half of 1/examples]")
@click.option("--noise-multiplier", type=float, help="Given instead of solved for.")
@click.option("--tuning-runs", type=click.IntRange(0), help="Earlier runs that are in no ledger.")
@click.option("--ledger", type=click.Path(path_type=Path), help="Earlier releases count too.")
@click.option("--dataset", help="Name of the data in the ledger.")
@json_option
def plan_command(
    *, words: tuple[str, ...], examples: int | None, as_json: bool, **options: Any
) -> None:
    """Print what a private run will claim and cost; nothing is trained.

    With RECIPE it is that recipe's run, checked as `casemate finetune --private` checks it.
    Without one give --examples, --batch, and --steps or --epochs.

    \b
    Example:
      casemate privacy plan --examples 67349 --batch 1000 --epochs 3 --epsilon 3
      casemate privacy plan mine.toml --epsilon 8
    """
    given = [
        f"{_KEYS[name]}={_word(value)}" for name, value in options.items() if value is not None
    ]
    has_recipe = bool(words) and ("=" not in words[0] or Path(words[0]).exists())
    if options["ledger"] is not None and options["dataset"] is None and not has_recipe:
        raise UsageError("name the data that the ledger counts: --dataset NAME")
    if options["steps"] is not None and options["epochs"] is not None:
        raise UsageError("give either --steps or --epochs")
    if has_recipe:
        loaded = load_recipe(words[0], ("privacy.enabled=true", *words[1:], *given))
    else:
        loaded = _without_recipe(words, examples, options, given)
    with progress("loading", lines=True) as relabel:
        from trainer.commands.privacy_plan import plan_of, render_plan

        found = plan_of(loaded, units=examples or 0, with_model=has_recipe, progress=relabel)
    emit(as_json, found, render_plan)


def _word(value: object) -> str:
    return toml_value(str(value)) if isinstance(value, Path | str) else str(value)


def _without_recipe(
    words: tuple[str, ...], examples: int | None, options: dict[str, Any], given: list[str]
) -> LoadedRecipe:
    """Return a recipe of nothing but the numbers given."""
    from trainer.recipe.parse import parse_recipe

    counted = options["steps"] is not None or options["epochs"] is not None
    if examples is None or options["batch"] is None or not counted:
        raise UsageError(f"name a recipe, or give {_NEEDED}")
    overrides = ("privacy.enabled=true", "optimizer.warmup_steps=0", *words, *given)
    recipe = parse_recipe("", where="the command line", folder=Path.cwd(), overrides=overrides)
    return LoadedRecipe(recipe, options["dataset"] or "data", "", overrides)


@command.group("ledger")
def ledger_group() -> None:
    """The ledger of what was released of a data set, and its owner's budget."""


@ledger_group.command("init")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="Name of the data that the budget is for.")
@click.option("--epsilon", type=float, required=True, help="All releases together at most.")
@click.option("--delta", type=float, required=True, help="At this delta.")
@click.option(
    "--unit",
    type=click.Choice(["record", "user"]),
    default="record",
    show_default=True,
    help="Whom the budget protects.",
)
@click.option("--user-field", default="", help="Of the data: what tells users apart.")
@json_option
def ledger_init(
    *,
    path: Path,
    dataset: str,
    epsilon: float,
    delta: float,
    unit: str,
    user_field: str,
    as_json: bool,
) -> None:
    """Make the ledger PATH with the budget that the data's owner sets.

    The trainer cannot exceed it, and it cannot be changed later.

    \b
    Example:
      casemate privacy ledger init tickets.ledger --dataset tickets --epsilon 8 --delta 1e-6
    """
    from trainer.commands.privacy_ledger import make_ledger, render_ledger
    from trainer.privacy.ledger import Budget

    budget = Budget(dataset, epsilon, delta, unit, user_field)
    emit(as_json, make_ledger(path, budget), render_ledger)


@ledger_group.command("show")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--delta", type=float, help="At this delta.  [default: the budget's]")
@json_option
def ledger_show(*, path: Path, delta: float | None, as_json: bool) -> None:
    """Verify the ledger PATH and show what was released, and what is left."""
    from trainer.commands.privacy_ledger import read, render_ledger

    with progress("accounting", lines=True):
        found = read(path, delta)
    emit(as_json, found, render_ledger)


for _each in (audit_command, compare_command, synthesize_command, check_command):
    command.add_command(_each)
