"""What privacy cost, for a person: a private checkpoint beside its twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from casemate.cli.output import table, warn
from trainer.checkpointing.keyed import KEY_FILE, data_key, keyed
from trainer.checkpointing.record import TrainingRecord, read_record
from trainer.commands.evaluate import data_options, model_folder
from trainer.commands.privacy_audit import keep_report, recorded_in
from trainer.commands.summary import figure
from trainer.evaluation.opening import read_recipe
from trainer.privacy.disparity import cost_of, disparity_words
from trainer.privacy.making import with_utility
from trainer.privacy.plain import to_plain
from trainer.privacy.record import read_report
from trainer.privacy.sections import GroupUtility, Utility
from trainer.privacy.utility import measure_utility
from trainer.recipe.digest import deciding_values

# What makes a twin one.
_FREE = "privacy."
_SOURCE = "model.source"


def compare_of(
    checkpoint: Path,
    *,
    twin: Path,
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
        UsageError: there is no model in a folder (`privacy_inputs.check_compare` goes first).
        PrivacyError, CheckpointError, DataError: as `measure_utility` raises them.
    """
    folder = model_folder(checkpoint)
    other = model_folder(twin)
    report = read_report(folder) if record else None
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
    if report is not None:
        keep_report(folder, with_utility(report, utility))
    found = {
        "recorded": recorded_in(folder) if record else [],
        "checkpoint": str(folder),
        "twin_checkpoint": str(other),
        **to_plain(utility),
        "differences": differences(folder, other),
    }
    return found, utility


def differences(private: Path, twin: Path) -> list[str]:
    """Return the keys in which the recipes of a run and its twin differ, privacy left out.

    Files count by what they held, not by where they lay: the start by the digest of its
    weights, data by its digests. Those of a private run are keyed; where its key is gone,
    the names of the files have to do.
    """
    own, other = read_recipe(private), read_recipe(twin)
    if own is None or other is None:
        return []
    values = [deciding_values(own), deciding_values(other)]
    records = read_record(private), read_record(twin)
    for each, record in zip(values, records, strict=True):
        each[_SOURCE] = None if record.parent is None else record.parent.weights_sha256
    for each, digests in zip(values, _data_digests(*records, private.parent), strict=False):
        each.update(digests)
    first, second = values
    return sorted(
        key
        for key in first.keys() | second.keys()
        if not key.startswith(_FREE) and first.get(key) != second.get(key)
    )


def _data_digests(
    private: TrainingRecord, twin: TrainingRecord, run: Path
) -> list[dict[str, list[str]]]:
    """Return the digests of the data of both by recipe key, in the same terms.

    Nothing if they cannot be had: a private run's digests are keyed, and its key is gone.
    """
    key = data_key(run) if private.keyed and (run / KEY_FILE).is_file() else None
    if twin.keyed or (private.keyed and key is None):
        return []
    return [_by_role(private, None), _by_role(twin, key)]


def _by_role(record: TrainingRecord, key: bytes | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"data.train": [], "data.validation": []}
    for source in record.sources:
        digest = source.sha256 if key is None else keyed(key, source.sha256)
        found[f"data.{source.role}"].append(digest)
    return {name: sorted(each) for name, each in found.items()}


def render_compare(data: dict[str, Any], utility: Utility) -> None:
    """Print a comparison: the figures, what is kept, and whom it costs more."""
    rows = [_row("all", utility, utility)]
    rows += [_row(group.name, group, utility) for group in utility.groups]
    table([utility.metric, "examples", "private", "twin", "cost", "95% interval"], rows)
    click.echo()
    if utility.chance is not None:
        click.echo(f"having learned nothing: {figure(utility.chance)}")
    click.echo(f"kept of the twin's gain: {_kept(utility)}")
    for words in disparity_words(utility):
        click.echo(words)
    if data["differences"]:
        warn(f"the twin's recipe differs in more than privacy: {', '.join(data['differences'])}")
    if data["recorded"]:
        click.echo(f"recorded in {' and '.join(data['recorded'])}")


def _kept(utility: Utility) -> str:
    """Return the share of the gain that is kept, or why there is none to name."""
    if utility.kept is not None:
        low, high = utility.kept_interval
        return f"{utility.kept:.1%} ({low:.1%} to {high:.1%})"
    if utility.chance is None:
        return "not known without the model that both began with; give it as --start DIRECTORY"
    return "no share can be named: the twin is no better than having learned nothing"


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
