"""`casemate privacy audit` and `compare`: what a private model reveals, and what privacy cost.

Each command imports what it needs when it is called; help stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from casemate.cli.output import emit, json_option, progress
from trainer.commands.options import batch_option, device_option
from trainer.commands.privacy_inputs import check_audit, check_compare


@click.command("audit")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--canaries",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="canaries.json of the run.  [default: the one in its folder]",
)
@click.option(
    "--members",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Files of records that it was trained on.",
)
@click.option(
    "--nonmembers",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Files of like records that it was not trained on.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Model to calibrate by, such as the one that training started from.",
)
@click.option(
    "--epsilon", type=float, help="Claim to compare with.  [default: what its privacy.json claims]"
)
@click.option("--delta", type=float, help="Of that claim.")
@click.option("--record", is_flag=True, help="Put what was found into its privacy.json.")
@batch_option
@device_option
@json_option
def audit_command(*, checkpoint: Path, as_json: bool, **options: Any) -> None:
    """Attack CHECKPOINT, a run's folder or a model, and say what it reveals at least.

    With the canaries of its run this gives a lower bound on epsilon, which a true claim is
    above; with members and nonmembers it says how well the two can be told apart. Exits
    with 1 if the claim is contradicted.

    \b
    Example:
      casemate privacy audit runs/tickets --epsilon 8
      casemate privacy audit runs/tickets --members train.tsv --nonmembers held-out.tsv
    """
    # A mistyped option is told before seconds of imports.
    chosen = ("canaries", "members", "nonmembers", "epsilon", "delta", "record")
    check_audit(checkpoint, **{name: options[name] for name in chosen})
    with progress("loading", lines=True) as relabel:
        from trainer.commands.privacy_audit import audit_of, render_audit

        found = audit_of(checkpoint, **options, progress=relabel)
    emit(as_json, found, render_audit)
    if found["contradicted"]:
        raise SystemExit(1)


@click.command("compare")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("words", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option(
    "--twin",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The same run without privacy; left out, the command that makes it is named.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="File or directory that neither was trained on.",
)
@click.option("--group-field", default="", help="Compare by the values of this field, too.")
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="For text: the model that both began with, to say how much of the gain is kept.",
)
@click.option("--record", is_flag=True, help="Put what was found into its privacy.json.")
@batch_option
@device_option
@json_option
def compare_command(
    *,
    checkpoint: Path,
    words: tuple[str, ...],
    twin: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what privacy cost CHECKPOINT, a private run or model, beside its twin.

    The twin is what the same recipe gives without privacy. Both are measured on the same
    examples, over all and for each label, with intervals; whom privacy costs more than the
    rest is said. --record puts it into privacy.json and privacy.html.

    \b
    Example:
      casemate finetune runs/tickets/recipe.toml privacy.enabled=false -o runs/tickets-twin
      casemate privacy compare runs/tickets --twin runs/tickets-twin --data test.tsv --record
    """
    other = check_compare(checkpoint, twin=twin, data=options["data"], record=options["record"])
    with progress("loading", lines=True) as relabel:
        from trainer.commands.privacy_compare import compare_of, render_compare

        found, utility = compare_of(
            checkpoint, twin=other, overrides=words, **options, progress=relabel
        )
    emit(as_json, found, lambda data: render_compare(data, utility))
