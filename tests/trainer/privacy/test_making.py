"""The report of a run says what its plan says, and an audit goes into it only if it is its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.privacy.reports import DIGEST, checkpoint, report
from trainer.errors import CheckpointError
from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.errors import PrivacyError
from trainer.privacy.event import Event
from trainer.privacy.making import report_of_run, with_audit, with_utility
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.record import decode_report, read_report, write_report

_MEMBERSHIP = {
    "auc": 0.52,
    "auc_interval": [0.49, 0.55],
    "tpr_at_1_percent_fpr": 0.01,
    "tpr_interval": [0.0, 0.03],
    "fpr": 0.01,
    "fpr_interval": [0.0, 0.02],
    "members": 100,
    "nonmembers": 100,
    "confidence": 0.95,
}


def plan(**changes: Any) -> PrivacyPlan:
    """A small run; its epsilon is what PLD says of it."""
    made = PrivacyPlan(
        unit="user",
        user_field="author",
        units=500,
        contributions=3,
        expected_batch=50,
        cap=90,
        steps=20,
        noise_multiplier=2.0,
        clipping="automatic",
        clip_norm=1.0,
        noise="gaussian",
        delta=1e-3,
        epsilon=0.0,
    )
    made = replace(made, **changes)
    return replace(made, epsilon=epsilon_pld(made.events, made.delta))


def made_of(run: PrivacyPlan, folder: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "dataset": "reviews",
        "optimizer": "adamw",
        "trained": "lora",
        "trained_parameters": 1000,
        "ledger_head": DIGEST,
        "budget": (8.0, 1e-3),
        "canaries_sha256": DIGEST,
    }
    return report_of_run(run, folder, **(values | changes))


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("run") / "final")


def test_every_figure_is_the_plans(final: Path) -> None:
    run = plan()
    made = made_of(run, final)
    claim, mechanism = made.claim, made.mechanism
    assert claim.epsilon == pytest.approx(run.epsilon)
    assert (claim.delta, claim.unit, claim.contributions) == (1e-3, "user", 3)
    assert claim.user_field == "author"
    assert (claim.neighbours, claim.sampling) == ("zero-out", "truncated-poisson")
    assert (mechanism.sensitivity, mechanism.noise_to_batch_ratio) == (3.0, 0.04)
    assert (mechanism.cap, mechanism.steps, mechanism.units) == (90, 20, 500)
    accounting = made.accounting
    assert accounting.epsilon_rdp >= claim.epsilon
    assert accounting.epsilon_prv == pytest.approx(claim.epsilon, abs=0.05)
    assert accounting.epsilon_unamplified > claim.epsilon
    assert made.composition.epsilon_of_this_run == pytest.approx(claim.epsilon)
    assert decode_report(made.encode()) == made
    write_report(final, made)
    assert read_report(final) == made


def test_earlier_releases_and_repeated_updates_are_in_the_claim(final: Path) -> None:
    earlier = Event(500, 0.1, 2.0, 10)
    run = plan(earlier=(earlier,))
    made = made_of(run, final)
    assert made.claim.epsilon > made.composition.epsilon_of_this_run
    assert len(made.composition.earlier) == 1
    again = made_of(run, final, charged=(*run.events, run.event.of(5)))
    assert again.claim.epsilon > made.claim.epsilon


def test_a_sampler_that_was_not_poisson_gets_no_amplification(final: Path) -> None:
    run = plan(earlier=(Event(500, 0.1, 2.0, 10, sampler="epochs"),))
    made = made_of(run, final)
    assert made.claim.sampling == "unamplified"
    assert decode_report(made.encode()) == made
    assert any("takes nothing off for sampling" in each.answer for each in made.hazards)


def test_without_noise_there_is_no_claim(final: Path) -> None:
    run = replace(plan(), noise_multiplier=0.0)
    with pytest.raises(PrivacyError, match="nothing is claimed"):
        made_of(run, final)


def audit(**bound: Any) -> dict[str, Any]:
    """What an audit's `to_dict` gives."""
    lower = {
        "epsilon": 0.4,
        "ceiling": 3.9,
        "delta": 1e-5,
        "confidence": 0.95,
        "canaries": 200,
        "guesses": 60,
        "correct": 36,
        "attempts": [],
    }
    exposure = {
        "mean_bits": 1.5,
        "mean_interval": [1.2, 1.8],
        "max_bits": 7.0,
        "max_at_least": 1.0,
        "unseen_mean_bits": 1.4,
        "limit_bits": 10.0,
        "candidates": 1023,
        "confidence": 0.95,
    }
    return {
        "claim": {"epsilon": 3.0, "delta": 1e-5},
        "contradicted": False,
        "calibrated": True,
        "canaries": {
            "digest": DIGEST,
            "canaries": 200,
            "planted": 98,
            "lower_bound": lower | bound,
            "exposure": exposure,
            "membership": _MEMBERSHIP,
        },
        "membership": None,
    }


def test_an_audit_goes_into_the_report() -> None:
    found = with_audit(report(), audit())
    assert found.evidence.audit is not None
    assert (found.evidence.audit.lower_bound, found.evidence.audit.correct) == (0.4, 36)
    assert found.evidence.membership is None
    assert found.standing.audited
    assert any("36 of 60 guesses" in each.answer for each in found.hazards)
    assert decode_report(found.encode()) == found


def test_an_audit_that_finds_more_refutes_the_claim() -> None:
    found = with_audit(report(), audit(epsilon=3.8))
    assert found.standing.refuted
    assert not found.standing.audited


def test_an_audit_that_finds_less_does_not_erase_a_refutation() -> None:
    refuted = with_audit(report(), audit(epsilon=3.5))
    again = with_audit(refuted, audit(epsilon=0.0))
    assert again.standing.refuted
    assert again.evidence == refuted.evidence
    worse = with_audit(again, audit(epsilon=3.7)).evidence.audit
    assert worse is not None
    assert worse.lower_bound == 3.7


def test_an_audit_of_real_records_alone_is_no_audit_of_the_claim() -> None:
    bare = replace(report(), evidence=replace(report().evidence, audit=None))
    found = with_audit(bare, audit() | {"canaries": None, "membership": _MEMBERSHIP})
    assert found.evidence.membership is not None
    assert not found.standing.audited


def test_coins_that_were_thrown_afterwards_prove_nothing() -> None:
    other = audit()
    other["canaries"]["digest"] = "0" * 64
    with pytest.raises(PrivacyError, match="not the ones that the report names"):
        with_audit(report(), other)
    unplanted = replace(report().evidence, canaries_sha256=None, audit=None)
    with pytest.raises(PrivacyError, match="not the ones"):
        with_audit(report(evidence=unplanted), audit())


def test_an_audit_of_another_form_is_refused() -> None:
    other = audit()
    del other["canaries"]["exposure"]["limit_bits"]
    with pytest.raises(CheckpointError, match="limit_bits"):
        with_audit(report(), other)


def test_what_privacy_cost_can_be_added() -> None:
    bare = with_utility(report(), None)
    assert any("was not measured" in each.answer for each in bare.hazards)
    told = with_utility(bare, report().utility)
    assert any("accuracy: 0.87 with privacy, 0.91 without" in each.answer for each in told.hazards)
