"""`casemate privacy`: plans, refusals by name, ledgers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from casemate.cli.main import cli
from security.errors import CasemateError
from tests.trainer.data.tiny import TEXTS, tokenizer, write_jsonl
from trainer.privacy.event import Event
from trainer.privacy.ledger import Ledger
from trainer.privacy.plan import PrivacyPlan


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["privacy", *words])


NUMBERS = ("plan", "--examples", "2000", "--batch", "200", "--steps", "40")


def test_a_plan_from_four_numbers() -> None:
    shown = run(*NUMBERS, "--noise-multiplier", "2", "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    plan = PrivacyPlan.from_dict(found["plan"])
    assert (plan.units, plan.expected_batch, plan.steps) == (2000, 200, 40)
    assert plan.delta == 0.5 / 2000
    epsilon = found["epsilon"]
    assert epsilon["pld"] == plan.epsilon <= epsilon["rdp"]
    assert abs(epsilon["pld"] - epsilon["prv"]) <= 0.02
    assert epsilon["without_amplification"] > epsilon["pld"]
    assert found["epochs"] == pytest.approx(4.0)
    assert found["cost"] is None


def test_a_plan_in_words() -> None:
    shown = run(*NUMBERS, "--noise-multiplier", "2", "--epsilon", "30", "--tuning-runs", "1")
    assert shown.exit_code == 0, shown.output
    for word in ("epsilon", "delta", "q = 0.1", "T = 40", "multiplier 2.0", "PLD", "RDP", "PRV"):
        assert word in shown.stdout
    assert "1 tuning run, " in shown.stdout
    assert "if batches were shuffled" in shown.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("plan",), "name a recipe"),
        (("plan", "--examples", "10", "--batch", "4"), "--steps or --epochs"),
        ((*NUMBERS, "--epochs", "3"), "either --steps or --epochs"),
        ((*NUMBERS, "--delta", "0.01"), "larger than 1/2,000"),
        ((*NUMBERS, "--batch", "3000"), "the data has 2,000"),
        ((*NUMBERS, "--noise-multiplier", "0.2"), "more than privacy.epsilon"),
    ],
    ids=["nothing", "no-steps", "both", "delta", "batch", "noise"],
)
def test_what_cannot_be_planned_is_refused(words: tuple[str, ...], named: str) -> None:
    shown = run(*words)
    assert shown.exit_code != 0
    assert named in shown.output + str(shown.exception)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer("character", "decoder").save(folder)
    rows = [{"text": f"{TEXTS[number % 4]} {number}"} for number in range(40)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        [run]
        steps = 10
        device = "cpu"
        [model]
        layers = 1
        width = 16
        heads = 2
        tie_embeddings = false
        [tokenizer]
        kind = "file"
        file = "tokenizer/tokenizer.json"
        [data]
        train = ["train.jsonl"]
        validation_fraction = 0.0
        sequence_length = 32
        [objective]
        softmax = "full"
        [optimizer]
        warmup_steps = 0
        [batch]
        sequences = 8
        [privacy]
        noise_multiplier = 3.0
        """,
        encoding="utf-8",
    )
    return path


def test_a_plan_of_a_recipe_counts_the_data_and_estimates_the_cost(recipe_file: Path) -> None:
    shown = run("plan", str(recipe_file), "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["plan"]["units"] == 40
    cost = found["cost"]
    assert cost["trained"] == cost["parameters"] > 0
    assert cost["fits"] is True
    assert cost["seconds"] > 0
    assert cost["time"]["basis"] == "measured"
    assert cost["memory_bytes"] == sum(cost["memory"].values())
    assert cost["memory"]["examples"] > 0
    assert any("keep the logs" in note for note in found["notes"])
    words = run("plan", str(recipe_file))
    assert "memory" in words.stdout
    assert "time" in words.stdout


def test_a_recipe_that_a_private_run_refuses_is_refused(recipe_file: Path) -> None:
    shown = run("plan", str(recipe_file), "objective.softmax=chunked")
    assert shown.exit_code != 0
    assert "objective.softmax" in shown.output + str(shown.exception)


def test_a_ledger_is_made_once_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "tickets.ledger"
    words = ("--dataset", "tickets", "--epsilon", "8", "--delta", "1e-5")
    made = run("ledger", "init", str(path), *words)
    assert made.exit_code == 0, made.output
    assert "epsilon 8 at delta 1e-05 for each record" in made.stdout
    again = run("ledger", "init", str(path), *words)
    assert again.exit_code != 0
    with Ledger.open(path) as ledger:
        ledger.begin("run-1", "tickets", Event(2000, 0.1, 2.0, 5, cap=290))
        for step in (0, 1, 1):
            ledger.charge("run-1", step)
    shown = run("ledger", "show", str(path), "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["budget"] == {
        "dataset": "tickets",
        "epsilon": 8.0,
        "delta": 1e-5,
        "unit": "record",
        "user_field": "",
    }
    (spent,) = found["datasets"]
    assert spent["updates"] == 3
    assert 0 < spent["epsilon"] < 8
    (release,) = found["releases"]
    assert (release["charged"], release["planned"], release["replayed"]) == (3, 5, 1)
    words_shown = run("ledger", "show", str(path)).stdout
    assert "3 of 5" in words_shown
    assert f"epsilon {spent['epsilon']:.3f}" in words_shown
    # What is in the ledger is part of the next plan's claim.
    counted = run(
        *NUMBERS, "--noise-multiplier", "2", "--ledger", str(path), "--dataset", "tickets"
    )
    assert counted.exit_code == 0, counted.output
    assert "composition" in counted.stdout


def test_an_edited_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    run("ledger", "init", str(path), "--dataset", "d", "--epsilon", "2", "--delta", "1e-5")
    path.write_bytes(path.read_bytes().replace(b"2", b"9"))
    shown = run("ledger", "show", str(path))
    assert shown.exit_code != 0


def test_a_missing_ledger_is_refused(tmp_path: Path) -> None:
    shown = run("ledger", "show", str(tmp_path / "none"))
    assert shown.exit_code != 0
    assert shown.exception is None or isinstance(shown.exception, SystemExit | CasemateError)


def test_an_audit_needs_something_to_audit_with(tmp_path: Path) -> None:
    shown = run("audit", str(tmp_path))
    assert shown.exit_code != 0
    assert "audit" in run("--help").stdout
