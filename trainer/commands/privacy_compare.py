"""What privacy cost, for a person: a private checkpoint beside its twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from casemate.cli.output import table, warn
from security.errors import UsageError
from trainer.commands.evaluate import data_options, model_folder
from trainer.commands.privacy_audit import keep_report
from trainer.commands.run_folder import RECIPE_FILE
from trainer.commands.summary import figure
from trainer.evaluation.opening import read_recipe
from trainer.privacy.disparity import cost_of, disparity_words
from trainer.privacy.making import with_utility
from trainer.privacy.plain import to_plain
from trainer.privacy.record import REPORT_NAME, read_report
from trainer.privacy.sections import GroupUtility, Utility
from trainer.privacy.utility import measure_utility
from trainer.recipe.describe import all_values

# A twin may differ in these: they say how and where a run is made, not what it learns.
_FREE = ("privacy", "report", "checkpoint", "distribution")


def compare_of(
    checkpoint: Path,
    *,
    twin: Path | None,
    data: Sequence[Path],
    overrides: Sequence[str] = (),
    group_field: str = "",
    start: Path | None = None,
    device: str = "auto",
    batch: int = 16,
    record: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], Utility]:
    """Compare a private checkpoint, or the final one of a run, with its twin.

    Args:
        checkpoint: a run's folder or a model directory.
        twin: the same of the run without privacy.
        data: files that neither was trained on.
        overrides: data.KEY=VALUE, where the recipe reads files in another way.
        group_field: field of the examples whose values are groups.
        start: for text, the model that both began with.
        device: "auto", "cpu" or "cuda".
        batch: examples of one forward pass.
        record: put what was found into its privacy.json, and draw the run's page anew.
        progress: is told what happens.

    Returns:
        JSON types, and the same as a section of the report.

    Raises:
        UsageError: no twin (with the command that makes one), no data, or nothing to record in.
        PrivacyError, CheckpointError, DataError: as `measure_utility` raises them.
    """
    folder = model_folder(checkpoint)
    if twin is None:
        raise UsageError(f"give --twin, the same run without privacy: {twin_command(checkpoint)}")
    if not data:
        raise UsageError("give --data, a file that neither model was trained on")
    report = read_report(folder) if (folder / REPORT_NAME).exists() else None
    if record and report is None:
        raise UsageError(f"{folder} has no {REPORT_NAME} to put a comparison into")
    other = model_folder(twin)
    utility = measure_utility(
        folder,
        other,
        data,
        data=data_options(folder, overrides),
        group_field=group_field,
        start=None if start is None else model_folder(start),
        device=device,
        batch=batch,
        progress=lambda done, total: progress(f"measuring {done:,} of {total:,}"),
    )
    if record and report is not None:
        keep_report(folder, with_utility(report, utility))
    found = {
        "checkpoint": str(folder),
        "twin_checkpoint": str(other),
        **to_plain(utility),
        "differences": differences(folder, other),
    }
    return found, utility


def twin_command(checkpoint: Path) -> str:
    """Return the command that makes the twin of a run."""
    run = checkpoint if (checkpoint / RECIPE_FILE).is_file() else checkpoint.parent
    recipe = run / RECIPE_FILE
    named = str(recipe) if recipe.is_file() else "RECIPE"
    output = f"{run}-twin" if recipe.is_file() else "FOLDER"
    return f"casemate finetune {named} privacy.enabled=false -o {output}"


def differences(private: Path, twin: Path) -> list[str]:
    """Return the keys in which the recipes of a run and its twin differ, privacy left out."""
    values = [None if (one := read_recipe(each)) is None else all_values(one)
              for each in (private, twin)]  # fmt: skip
    own, other = values
    if own is None or other is None:
        return []
    return [
        f"{section}.{key}"
        for section in own
        if section not in _FREE
        for key in own[section]
        if own[section][key] != other.get(section, {}).get(key)
    ]


def render_compare(data: dict[str, Any], utility: Utility) -> None:
    """Print a comparison: the figures, what is kept, and whom it costs more."""
    rows = [_row("all", utility, utility)]
    rows += [_row(group.name, group, utility) for group in utility.groups]
    table([utility.metric, "examples", "private", "twin", "cost", "95% interval"], rows)
    click.echo()
    if utility.chance is not None:
        click.echo(f"having learned nothing: {figure(utility.chance)}")
    if utility.kept is not None:
        low, high = utility.kept_interval
        click.echo(f"kept of the twin's gain: {utility.kept:.1%} ({low:.1%} to {high:.1%})")
    for words in disparity_words(utility):
        click.echo(words)
    if data["differences"]:
        warn(f"the twin's recipe differs in more than privacy: {', '.join(data['differences'])}")


def _row(name: str, figures: Utility | GroupUtility, utility: Utility) -> list[str]:
    cost = cost_of(figures, higher_is_better=utility.higher_is_better)
    low, high = figures.cost_interval
    return [
        name,
        f"{figures.examples:,}",
        figure(figures.private),
        figure(figures.twin),
        figure(cost),
        f"{figure(low)} to {figure(high)}",
    ]
