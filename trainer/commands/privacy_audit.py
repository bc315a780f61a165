"""The audit of a checkpoint for a person: what attacks find, beside what is claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from casemate.cli.output import counted, table
from security.errors import UsageError
from trainer.commands.evaluate import model_folder
from trainer.commands.run_folder import RECIPE_FILE
from trainer.commands.summary import figure
from trainer.privacy.audit.canaries import CANARIES_NAME
from trainer.privacy.audit.result import Claim
from trainer.privacy.audit.run import audit_checkpoint, granted_delta_of
from trainer.privacy.making import with_audit
from trainer.privacy.record import REPORT_NAME, PrivacyReport, read_report, write_report
from trainer.privacy.report import PAGE_NAME, write_privacy_page

# What a lower bound means, in a sentence that is always shown.
_CAVEAT = (
    "An audit can contradict a claim, never prove one: it shows what these attacks found, not "
    "what the best attack could find."
)


def audit_of(
    checkpoint: Path,
    *,
    canaries: Path | None = None,
    members: Sequence[Path] = (),
    nonmembers: Sequence[Path] = (),
    reference: Path | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    device: str = "auto",
    batch: int = 16,
    record: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Audit a checkpoint, or the final one of a run, and return what was found.

    Args:
        checkpoint: a run's folder or a model directory.
        canaries: the run's canaries.json; None takes the one in the run's folder, if any.
        members: files of records that it was trained on.
        nonmembers: files of like records that it was not trained on.
        reference: a checkpoint to calibrate by.
        epsilon: claimed; None takes the claim of its privacy.json, if there is one.
        delta: claimed; None grants half of 1/units to `epsilon`.
        device: "auto", "cpu" or "cuda".
        batch: records of one forward pass.
        record: put what was found into its privacy.json, and draw the run's page anew.
        progress: is told what happens.

    Raises:
        UsageError: options that do not go together, or files that are not there.
        PrivacyError, CheckpointError, DataError: as `audit_checkpoint` raises them.
    """
    folder = model_folder(checkpoint)
    found = canaries or _canaries_beside(checkpoint, folder)
    if bool(members) != bool(nonmembers):
        raise UsageError("give --members and --nonmembers, both or neither")
    report = read_report(folder) if (folder / REPORT_NAME).exists() else None
    if record and report is None:
        raise UsageError(f"{folder} has no {REPORT_NAME} to put an audit into")
    result = audit_checkpoint(
        folder,
        canaries=found,
        members=members,
        nonmembers=nonmembers,
        reference=None if reference is None else model_folder(reference),
        claim=_claim(epsilon, delta, found, report),
        device=device,
        batch=batch,
        progress=lambda done, total: progress(f"attacking {done:,} of {total:,} records"),
    )
    values = result.to_dict()
    if record and report is not None:
        report = with_audit(report, values)
        keep_report(folder, report)
    if epsilon is None and found is not None and report is not None and report.standing.refuted:
        values["contradicted"] = True  # an earlier audit may have found what this one did not
    return {"checkpoint": str(folder), **values}


def keep_report(folder: Path, report: PrivacyReport) -> None:
    """Replace a checkpoint's report, and the page of the run it lies in."""
    write_report(folder, report)
    if (folder.parent / RECIPE_FILE).is_file():
        write_privacy_page(folder.parent / PAGE_NAME, report)


def _claim(
    epsilon: float | None,
    delta: float | None,
    canaries: Path | None,
    report: PrivacyReport | None,
) -> Claim | None:
    """Return what is claimed: by the options, or else by the checkpoint's own report."""
    if epsilon is None:
        if delta is not None:
            raise UsageError("--delta needs --epsilon")
        return None if report is None else Claim(report.claim.epsilon, report.claim.delta)
    if delta is not None:
        return Claim(epsilon, delta)
    if canaries is None:
        raise UsageError("without canaries, --epsilon needs --delta")
    return Claim(epsilon, granted_delta_of(canaries))


def _canaries_beside(checkpoint: Path, folder: Path) -> Path | None:
    """Return canaries.json of the run that a checkpoint belongs to, if it is there."""
    for place in dict.fromkeys((checkpoint, folder.parent)):
        if (place / CANARIES_NAME).is_file():
            return place / CANARIES_NAME
    return None


def render_audit(data: dict[str, Any]) -> None:
    """Print an audit: the verdict first, then the figures with their intervals."""
    claim, canaries, membership = data["claim"], data["canaries"], data["membership"]
    if canaries is not None:
        _render_verdict(claim, canaries, data["contradicted"])
        click.echo()
    rows = []
    if canaries is not None:
        exposure = canaries["exposure"]
        rows += [
            ["exposure of canaries, mean bits", *_with(exposure, "mean_bits", "mean_interval")],
            ["the same of canaries left out", figure(exposure["unseen_mean_bits"]), ""],
            [
                "exposure, largest",
                figure(exposure["max_bits"]),
                f"at least {figure(exposure['max_at_least'])}",
            ],
            *_attack_rows("canaries", canaries["membership"]),
        ]
    if membership is not None:
        rows += _attack_rows("records", membership)
    table(["figure", "value", "95% interval"], rows)
    click.echo()
    click.echo(_CAVEAT)


def _render_verdict(
    claim: dict[str, Any] | None, canaries: dict[str, Any], contradicted: bool | None
) -> None:
    bound = canaries["lower_bound"]
    click.echo(
        f"epsilon is at least {bound['epsilon']:.2f} at delta {bound['delta']:.2g}, with "
        f"{bound['confidence']:.0%} confidence: {bound['correct']} of {bound['guesses']} guesses "
        f"right, {counted(bound['canaries'], 'canary', 'canaries')}"
    )
    if claim is None:
        click.echo("no claim was given to compare with (--epsilon, --delta)")
        return
    if contradicted:
        click.echo(f"THE CLAIM IS CONTRADICTED: it says {claim['epsilon']:g} at most")
        return
    click.echo(f"the claim of {claim['epsilon']:g} is not contradicted")
    if bound["ceiling"] <= claim["epsilon"]:
        click.echo(
            f"this audit could not have contradicted it: with every guess right it would show "
            f"{bound['ceiling']:.2f}. Plant more canaries, or fewer if 2 x canaries x delta is "
            "not far below 0.05"
        )


def _attack_rows(whose: str, attack: dict[str, Any]) -> list[list[str]]:
    return [
        [f"membership of {whose}, AUC", *_with(attack, "auc", "auc_interval")],
        [
            f"membership of {whose}, TPR at 1% FPR",
            *_with(attack, "tpr_at_1_percent_fpr", "tpr_interval"),
        ],
    ]


def _with(values: dict[str, Any], key: str, interval: str) -> tuple[str, str]:
    low, high = values[interval]
    return figure(values[key]), f"{figure(low)} to {figure(high)}"
