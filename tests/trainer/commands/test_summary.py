"""The end of a run, as a person reads it."""

from __future__ import annotations

import pytest

from trainer.commands.summary import figure, render_summary

SUMMARY = {
    "finished": True,
    "reason": "done",
    "steps": 2000,
    "seconds": 181.25,
    "tokens_per_second": 8500.4,
    "loss": 1.5,
    "validation_loss": 1.87,
    "metrics": {"perplexity": 6.5},
    "checkpoint": "runs/x/final",
    "report": "runs/x/report.html",
}


def shown(capsys: pytest.CaptureFixture[str], **changes: object) -> str:
    render_summary({**SUMMARY, **changes})
    return capsys.readouterr().out


def test_figures_paths_and_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    for words in ("2,000", "181.2", "8,500", "1.8700", "perplexity", "runs/x/report.html"):
        assert words in text
    assert text.endswith("Sign it with: casemate sign runs/x/final\n")


def test_figures_of_the_exported_checkpoint_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, evaluation={"loss": 1.9, "perplexity": 6.25})
    assert "6.2500" in text
    assert "6.5000" not in text
    assert "1.9000" not in text


@pytest.mark.parametrize(("reason", "word"), [("early", "best"), ("time", "run.max_minutes")])
def test_why_a_run_ended_before_its_steps(
    capsys: pytest.CaptureFixture[str], reason: str, word: str
) -> None:
    assert word in shown(capsys, reason=reason)


def test_a_stopped_run_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, finished=False, reason="asked")
    assert text == "stopped after step 2,000; the same command goes on from there\n"


CLAIM = {
    "epsilon": 2.9984,
    "delta": 0.5 / 6920,
    "unit": "record",
    "units": 6920,
    "report": "runs/x/final/privacy.json",
    "page": "runs/x/privacy.html",
    "ledger": "tickets.ledger",
    "dataset": "tickets",
    "budget": 8.0,
    "released": 3.25,
    "released_delta": 1e-6,
}


def test_a_private_run_ends_with_its_claim_and_its_ledger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(capsys, privacy=CLAIM)
    for words in (
        "epsilon 2.998 at delta 7.225e-05, half of 1/6,920, for each of 6,920 records",
        "runs/x/final/privacy.json; for people runs/x/privacy.html",
        "3.250 of epsilon 8 is released, 4.750 remains (at its delta, 1e-06)",
    ):
        assert words in text
    own = shown(capsys, privacy={**CLAIM, "budget": None})
    assert "no budget was set" in own
    assert "remains" not in own


def test_missing_figures_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    render_summary({"steps": 3, "loss": None})
    assert capsys.readouterr().out == "steps  3\n"


def test_figures_of_every_kind() -> None:
    assert [figure(value) for value in (0.12345, 3, "inf")] == ["0.1235", "3", "inf"]
