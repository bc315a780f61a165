"""The end of a private run: what was charged becomes the claim of the exported checkpoint.

    read the ledger -> account for all of it -> final/privacy.json -> RUN/privacy.html

Invariant: the claim is what the ledger says at the end, not what the plan said at the
beginning: updates that were repeated after a crash and releases by others meanwhile count.
A crash before privacy.json is written leaves a checkpoint without a claim, never one with
a claim that is too small.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.privacy.errors import LedgerError
from trainer.privacy.event import Event
from trainer.privacy.ledger import read_ledger
from trainer.privacy.making import report_of_run
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.record import PrivacyReport, write_report
from trainer.privacy.report import PAGE_NAME, write_privacy_page


def conclude(
    final: Path,
    *,
    plan: PrivacyPlan,
    steps: int,
    ledger: Path,
    run_id: str,
    dataset: str,
    optimizer: str,
    trained: str,
    trained_parameters: int,
    canaries_digest: str | None,
) -> PrivacyReport:
    """Write the report of a run that is over; one rank calls it.

    Args:
        final: the exported checkpoint; the page is written beside it.
        plan: what the run obeyed.
        steps: updates that made the exported weights.
        ledger: its path; the run may still hold it open.
        run_id: of the run, in the ledger.
        dataset: the name of its data, in the ledger.
        optimizer: what moved the weights.
        trained: which of them, such as "lora" or "all".
        trained_parameters: how many.
        canaries_digest: of canaries.json; None without.

    Raises:
        PrivacyError: nothing can be claimed.
        LedgerError: the ledger cannot be read or does not hold the run.
        CheckpointError: the checkpoint cannot be read.
        OSError: the report cannot be written.
    """
    view = read_ledger(ledger)
    releases = [release for release in view.releases if release.run_id == run_id]
    tuned = sum(release.tuning for release in releases)
    own = sum(release.charged for release in releases) - tuned
    if own < max(1, steps):
        raise LedgerError(
            f"{ledger} was charged {own:,} updates of this run, and {steps:,} made the weights: it "
            "is not the ledger of this run, so nothing can be claimed"
        )
    unit, user_field = plan.unit, plan.user_field
    earlier = view.events(dataset, unit=unit, user_field=user_field, without=run_id)
    charged = view.events(dataset, unit=unit, user_field=user_field)
    budget = view.budget
    report = report_of_run(
        dataclasses.replace(plan, earlier=earlier, steps=max(1, steps)),
        final,
        dataset=dataset,
        optimizer=optimizer,
        trained=trained,
        trained_parameters=trained_parameters,
        ledger_head=view.head.link,
        budget=None if budget is None else (budget.epsilon, budget.delta),
        canaries_sha256=canaries_digest,
        charged=(*charged, *_tuning(plan, tuned)),
    )
    write_report(final, report)
    write_privacy_page(final.parent / PAGE_NAME, report)
    return report


def _tuning(plan: PrivacyPlan, charged: int) -> tuple[Event, ...]:
    """Return the updates of tuning runs that the recipe counts and the ledger does not."""
    missing = plan.steps * plan.tuning_runs - charged
    return (plan.event.of(missing),) if missing > 0 else ()
