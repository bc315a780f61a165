"""The audit of a checkpoint for a person: what attacks find, beside what is claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from casemate.cli.output import counted, table
from trainer.commands.evaluate import model_folder
from trainer.commands.privacy_inputs import check_audit
from trainer.commands.run_folder import RECIPE_FILE
from trainer.commands.summary import figure
from trainer.privacy.audit.planning import canaries_for
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
    found = check_audit(
        checkpoint,
        canaries=canaries,
        members=members,
        nonmembers=nonmembers,
        epsilon=epsilon,
        delta=delta,
        record=record,
    )
    folder = model_folder(checkpoint)
    report = read_report(folder) if (folder / REPORT_NAME).exists() else None
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
    recorded: list[str] = []
    if record and report is not None:
        report = with_audit(report, values)
        keep_report(folder, report)
        recorded = recorded_in(folder)
    progress("looking how far an audit could reach")
    values["advice"] = _advice(values)
    values["recorded"] = recorded
    values["kept_earlier"] = bool(recorded) and _kept_earlier(report, values["canaries"])
    if epsilon is None and found is not None and report is not None and report.standing.refuted:
        values["contradicted"] = True  # an earlier audit may have found what this one did not
    return {"checkpoint": str(folder), **values}


def recorded_in(folder: Path) -> list[str]:
    """Return the files that hold what was recorded: the report, and its page if there is one."""
    page = folder.parent / PAGE_NAME
    has_page = (folder.parent / RECIPE_FILE).is_file() and page.is_file()
    return [str(folder / REPORT_NAME), *([str(page)] if has_page else [])]


def _kept_earlier(report: PrivacyReport | None, canaries: dict[str, Any] | None) -> bool:
    """Whether the report keeps an earlier audit, which found more."""
    if report is None or canaries is None or report.evidence.audit is None:
        return False
    return bool(report.evidence.audit.lower_bound > canaries["lower_bound"]["epsilon"])


def _advice(values: dict[str, Any]) -> dict[str, Any] | None:
    """Return how many canaries could have contradicted the claim where these could not."""
    claim, canaries = values["claim"], values["canaries"]
    if claim is None or canaries is None:
        return None
    if values["contradicted"] or canaries["lower_bound"]["ceiling"] > claim["epsilon"]:
        return None
    found = canaries_for(claim["epsilon"], claim["delta"])
    return {"canaries": found.canaries, "ceiling": found.ceiling}


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
        return None if report is None else Claim(report.claim.epsilon, report.claim.delta)
    if delta is not None:
        return Claim(epsilon, delta)
    return None if canaries is None else Claim(epsilon, granted_delta_of(canaries))


def render_audit(data: dict[str, Any]) -> None:
    """Print an audit: the verdict first, then the figures with their intervals."""
    claim, canaries, membership = data["claim"], data["canaries"], data["membership"]
    if canaries is not None:
        _render_verdict(claim, canaries, data["contradicted"], data["advice"])
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
    if data["recorded"]:
        click.echo(f"recorded in {' and '.join(data['recorded'])}")
    if data["kept_earlier"]:
        click.echo("the report keeps its earlier audit, which found more than this one")


def _render_verdict(
    claim: dict[str, Any] | None,
    canaries: dict[str, Any],
    contradicted: bool | None,
    advice: dict[str, Any] | None,
) -> None:
    bound = canaries["lower_bound"]
    click.echo(
        f"epsilon is at least {bound['epsilon']:.2f} at delta {bound['delta']:.4g}, with "
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
    if advice is not None:
        click.echo(_advice_words(bound, claim, advice))


def _advice_words(bound: dict[str, Any], claim: dict[str, Any], advice: dict[str, Any]) -> str:
    number, ceiling = advice["canaries"], advice["ceiling"]
    said = (
        f"this audit could not have contradicted it: with every guess right it would show "
        f"{bound['ceiling']:.2f}. "
    )
    if ceiling > claim["epsilon"]:
        return said + (
            f"One more training, with privacy.canaries={number}, could show up to {ceiling:.2f} at "
            f"delta {claim['delta']:.4g}"
        )
    return said + (
        f"At delta {claim['delta']:.4g} no number of canaries could: {number:,} reach furthest, "
        f"{ceiling:.2f}. More records or a smaller privacy.delta let an audit reach further; "
        "otherwise the claim rests on its proof alone"
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
