"""Makes the report of a private run out of its plan, and puts an audit's findings into it.

Everything that the report says of the mechanism comes from the plan that the run obeyed;
there is no second place where it could be said differently.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from security.bundle.claim import MAX_EPSILON, AuditEvidence
from trainer.checkpointing.record import read_record
from trainer.privacy.accounting import Curve as AccountedCurve
from trainer.privacy.accounting import curve, epsilon_pld, epsilon_prv, epsilon_rdp
from trainer.privacy.errors import PrivacyError
from trainer.privacy.event import Event
from trainer.privacy.hazards import NOT_PROTECTED, hazards_of
from trainer.privacy.noise import mode_facts
from trainer.privacy.plain import from_plain
from trainer.privacy.plan import NEIGHBOURING_RELATION, PrivacyPlan
from trainer.privacy.record import PrivacyReport, digests_of
from trainer.privacy.sections import (
    Accounting,
    Budget,
    Claim,
    Composition,
    Curve,
    Evidence,
    Exposure,
    Mechanism,
    Membership,
    ModelIdentity,
    Randomness,
    Release,
    Utility,
)

_PACKAGES: Final = ("dp-accounting", "opacus")


def report_of_run(
    plan: PrivacyPlan,
    folder: Path,
    *,
    dataset: str,
    optimizer: str,
    trained: str,
    trained_parameters: int,
    ledger_head: str | None,
    budget: tuple[float, float] | None = None,
    canaries_sha256: str | None = None,
    charged: tuple[Event, ...] | None = None,
    now: datetime | None = None,
) -> PrivacyReport:
    """Return the report of a run whose checkpoint lies in `folder`; takes some seconds.

    Args:
        plan: what the run obeyed.
        folder: the exported checkpoint, with its training.json.
        dataset: the name that the ledger counts under.
        optimizer: what moved the weights.
        trained: which of them, such as "lora" or "all".
        trained_parameters: how many.
        ledger_head: digest of the ledger's last line; None without one.
        budget: (epsilon, delta) that the data's owner allows.
        canaries_sha256: digest of canaries.json; None if none were planted.
        charged: everything that the ledger holds, tuning runs included, where that is more
            than the plan (updates that were repeated after a crash); it is what is claimed.
        now: the time to record; the clock's by default.

    Raises:
        PrivacyError: there is nothing that could be claimed.
        CheckpointError: the checkpoint cannot be read.
    """
    events = plan.events if charged is None else charged
    epsilon = epsilon_pld(events, plan.delta)
    if not epsilon <= MAX_EPSILON:
        raise PrivacyError(
            f"the run comes to epsilon {epsilon:.3g}, and above {MAX_EPSILON:g} nothing is claimed"
        )
    weights, training = digests_of(folder)
    report = PrivacyReport(
        created=(now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        model=ModelIdentity(read_record(folder).name, weights, training),
        claim=Claim(
            epsilon,
            plan.delta,
            plan.unit,
            plan.contributions,
            NEIGHBOURING_RELATION,
            _sampling(events),
            plan.user_field or None,
        ),
        mechanism=_mechanism(plan, optimizer, trained, trained_parameters),
        accounting=_accounting(events, plan.delta),
        composition=Composition(
            dataset=dataset,
            epsilon_of_this_run=min(epsilon, epsilon_pld(plan.event, plan.delta)),
            tuning_runs=plan.tuning_runs,
            earlier=tuple(Release(**event.to_dict()) for event in plan.earlier),
            budget=None if budget is None else Budget(*budget),
            ledger_head=ledger_head,
        ),
        randomness=Randomness(**mode_facts(plan.noise)),
        evidence=Evidence(canaries_sha256=canaries_sha256),
        utility=None,
        not_protected=NOT_PROTECTED,
        hazards=(),
    )
    return replace(report, hazards=hazards_of(report))


def with_audit(report: PrivacyReport, found: Mapping[str, Any]) -> PrivacyReport:
    """Return the report with what an audit of its model found (`AuditResult.to_dict`).

    An attack that finds less proves nothing against one that found more: of two audits
    with the same canaries, the one with the larger lower bound stays.

    Raises:
        PrivacyError: the canaries are not the ones that were fixed before training.
        CheckpointError: `found` is not what an audit gives.
    """
    canaries = found["canaries"]
    evidence = replace(
        report.evidence,
        membership=_membership(found["membership"]),
        calibrated=bool(found["calibrated"]),
    )
    if canaries is not None:
        if canaries["digest"] != report.evidence.canaries_sha256:
            raise PrivacyError(
                "these canaries are not the ones that the report names (canaries_sha256): coins "
                "that were thrown after training prove nothing"
            )
        bound = canaries["lower_bound"]
        earlier = report.evidence.audit
        if earlier is not None and earlier.lower_bound > min(bound["epsilon"], MAX_EPSILON):
            return report
        evidence = replace(
            evidence,
            audit=AuditEvidence(
                method="one-run",
                canaries=bound["canaries"],
                guesses=bound["guesses"],
                correct=bound["correct"],
                confidence=bound["confidence"],
                delta=bound["delta"],
                lower_bound=min(bound["epsilon"], MAX_EPSILON),
                ceiling=min(bound["ceiling"], MAX_EPSILON),
            ),
            exposure=from_plain(Exposure, canaries["exposure"], "exposure"),
            canary_membership=_membership(canaries["membership"]),
        )
    report = replace(report, evidence=evidence)
    return replace(report, hazards=hazards_of(report))


def with_utility(report: PrivacyReport, utility: Utility | None) -> PrivacyReport:
    """Return the report with what privacy cost."""
    report = replace(report, utility=utility)
    return replace(report, hazards=hazards_of(report))


def _membership(found: Mapping[str, Any] | None) -> Membership | None:
    return None if found is None else from_plain(Membership, found, "membership")


def _sampling(events: tuple[Event, ...]) -> str:
    """Say what the weakest of the releases allows to be said."""
    if any(event.sampler != "poisson" for event in events):
        return "unamplified"
    return "truncated-poisson" if any(event.cap is not None for event in events) else "poisson"


def _mechanism(plan: PrivacyPlan, optimizer: str, trained: str, parameters: int) -> Mechanism:
    return Mechanism(
        units=plan.units,
        expected_batch=plan.expected_batch,
        sampling_probability=plan.sampling_probability,
        cap=plan.cap,
        steps=plan.steps,
        noise_multiplier=plan.noise_multiplier,
        noise=plan.noise,
        clipping=plan.clipping,
        clip_norm=plan.clip_norm,
        sensitivity=plan.sensitivity,
        noise_to_batch_ratio=plan.noise_to_batch_ratio,
        optimizer=optimizer,
        trained=trained,
        trained_parameters=parameters,
    )


def _accounting(events: tuple[Event, ...], delta: float) -> Accounting:
    unamplified = epsilon_pld([event.without_amplification() for event in events], delta)
    return Accounting(
        accountant="pld",
        epsilon_rdp=_finite(epsilon_rdp(events, delta)),
        epsilon_prv=_finite(epsilon_prv(events, delta)),
        epsilon_unamplified=_finite(unamplified),
        curve=_curve(curve(events)),
        packages={name: importlib.metadata.version(name) for name in _PACKAGES},
    )


def _curve(found: AccountedCurve) -> Curve:
    pld, rdp, prv = (tuple(map(_finite, each)) for each in (found.pld, found.rdp, found.prv))
    return Curve(tuple(found.deltas), pld, rdp, prv)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
