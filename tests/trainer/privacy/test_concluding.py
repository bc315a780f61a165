"""The claim of a finished run is what its ledger holds, replays and other runs included."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.privacy.reports import checkpoint
from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.concluding import conclude
from trainer.privacy.errors import LedgerError
from trainer.privacy.event import Event
from trainer.privacy.ledger import Budget, Ledger
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.record import read_report

DELTA = 1e-3
PLAN = PrivacyPlan(
    unit="record",
    user_field="",
    units=500,
    contributions=1,
    expected_batch=50,
    cap=90,
    steps=4,
    noise_multiplier=2.0,
    clipping="flat",
    clip_norm=0.1,
    noise="gaussian",
    delta=DELTA,
    epsilon=epsilon_pld(Event(500, 0.1, 2.0, 4, 90), DELTA),
)


def finished(run: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "plan": PLAN,
        "steps": 4,
        "ledger": run / "ledger.jsonl",
        "run_id": "this",
        "dataset": "tickets",
        "optimizer": "adamw",
        "trained": "lora",
        "trained_parameters": 10,
        "canaries_digest": None,
    }
    return conclude(run / "final", **(values | changes))


def charge(ledger: Ledger, run_id: str, steps: range, event: Event = PLAN.event) -> None:
    ledger.begin(run_id, "tickets", event.of(len(steps)))
    for step in steps:
        ledger.charge(run_id, step)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoint(tmp_path / "final")
    return tmp_path


def test_an_undisturbed_run_claims_what_was_planned(run: Path) -> None:
    with Ledger.create(run / "ledger.jsonl", Budget("tickets", 8.0, DELTA)) as ledger:
        charge(ledger, "this", range(4))
        # The run holds its ledger open while it concludes.
        report = finished(run)
        assert report.composition.ledger_head == ledger.head.link
    assert report.claim.epsilon == pytest.approx(PLAN.epsilon)
    assert read_report(run / "final") == report
    assert report.composition.budget is not None
    assert report.composition.budget.epsilon == 8.0
    assert "Casemate privacy report" in (run / "privacy.html").read_text()


def test_replays_and_others_count(run: Path) -> None:
    with Ledger.create(run / "ledger.jsonl") as ledger:
        charge(ledger, "other", range(3))
        charge(ledger, "this", range(3))
        charge(ledger, "this", range(1, 4))
    report = finished(run)
    everything = PLAN.event.of(9)
    assert report.claim.epsilon == pytest.approx(epsilon_pld(everything, DELTA))
    assert report.claim.epsilon > PLAN.epsilon
    assert [each.steps for each in report.composition.earlier] == [3]


def test_tuning_runs_are_claimed_once_and_are_no_updates_of_the_run(run: Path) -> None:
    plan = dataclasses.replace(PLAN, tuning_runs=2)
    with Ledger.create(run / "ledger.jsonl") as ledger:
        ledger.begin("this", "tickets", PLAN.event, tuning=8)
        with pytest.raises(LedgerError, match="charged 0 updates"):
            finished(run, plan=plan)
        for step in range(4):
            ledger.charge("this", step)
    report = finished(run, plan=plan)
    assert report.claim.epsilon == pytest.approx(epsilon_pld(PLAN.event.of(12), DELTA))


def test_a_ledger_that_does_not_hold_the_run_supports_no_claim(run: Path) -> None:
    with Ledger.create(run / "ledger.jsonl") as ledger:
        charge(ledger, "other", range(4))
    with pytest.raises(LedgerError, match="charged 0 updates of this run, and 4 made"):
        finished(run)
    with Ledger.open(run / "ledger.jsonl") as ledger:
        charge(ledger, "this", range(3))
    with pytest.raises(LedgerError, match="charged 3 updates"):
        finished(run)
    assert not (run / "final/privacy.json").exists()
    assert not (run / "privacy.html").exists()


def test_a_missing_ledger_supports_no_claim(run: Path) -> None:
    with pytest.raises(LedgerError):
        finished(run)
    assert not (run / "final/privacy.json").exists()
