"""`casemate privacy plan` beside a ledger, and on data as it is: what a run would find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from casemate.cli.main import cli
from tests.trainer.data.tiny import TEXTS, tokenizer, write_jsonl
from tests.trainer.loop.runs import run_here
from trainer.commands.privacy_plan import render_plan
from trainer.privacy.event import Event
from trainer.privacy.ledger import Budget, Ledger
from trainer.recipe.parse import load_recipe

NUMBERS = ("--examples", "2000", "--batch", "200", "--steps", "20", "--epsilon", "3")


def plan(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["privacy", "plan", *map(str, words)])


def refusal(*words: str | Path) -> str:
    shown = plan(*words)
    assert shown.exit_code != 0, shown.output
    return shown.output + str(shown.exception)


def used(path: Path, *, epsilon: float = 8.0, updates: int = 20) -> Path:
    """A ledger with a budget for tickets, and a run on them."""
    with Ledger.create(path, Budget("tickets", epsilon, 1e-5)) as ledger:
        ledger.begin("run-1", "tickets", Event(2000, 0.1, 2.0, updates, cap=290))
        for step in range(updates):
            ledger.charge("run-1", step)
    return path


def test_a_used_ledger_raises_the_noise_and_says_what_remains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = ("--ledger", used(tmp_path / "tickets.ledger"), "--dataset", "tickets")
    alone = json.loads(plan(*NUMBERS, "--json").stdout)
    after = json.loads(plan(*NUMBERS, *beside, "--json").stdout)
    assert after["plan"]["noise_multiplier"] > alone["plan"]["noise_multiplier"]
    ledger = after["ledger"]
    assert ledger["this_run"] < after["plan"]["epsilon"] <= 3.0
    assert 0 < ledger["released"] < ledger["with_this_run"] < 8.0
    render_plan(after)
    words = capsys.readouterr().out
    assert f"{ledger['released']:.3f} was released before" in words
    assert f"{8.0 - ledger['with_this_run']:.3f} remains" in words
    assert "is the total with those earlier releases, so this run gets more noise" in words


def test_a_run_that_the_budget_does_not_allow_is_refused(tmp_path: Path) -> None:
    ledger = used(tmp_path / "l", epsilon=2.5)
    found = refusal(*NUMBERS, "--ledger", ledger, "--dataset", "tickets")
    assert "the budget of 'tickets' is epsilon 2.5" in found
    assert "was released before, and with this run it would be" in found


def test_a_ledger_that_is_missing_or_for_other_data_is_refused(tmp_path: Path) -> None:
    missing = refusal(*NUMBERS, "--ledger", tmp_path / "none", "--dataset", "tickets")
    assert "Only for data that no private run has ever used" in missing
    assert "--dataset tickets" in missing
    ledger = used(tmp_path / "l")
    assert "--dataset NAME" in refusal(*NUMBERS, "--ledger", ledger)
    other = refusal(*NUMBERS, "--ledger", ledger, "--dataset", "letters")
    assert "is for 'tickets'" in other
    assert "'letters'" in other


def test_without_a_ledger_it_says_that_one_will_be_made() -> None:
    assert "the run makes one of its own in its folder" in plan(*NUMBERS).stdout


def test_releases_of_other_names_are_pointed_out(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "l") as ledger:
        ledger.begin("run-1", "tickets", Event(2000, 0.1, 2.0, 1, cap=290))
        ledger.charge("run-1", 0)
    shown = plan(*NUMBERS, "--ledger", tmp_path / "l", "--dataset", "ticket").stdout
    assert "holds releases of 'tickets', which are not counted" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--delta", "0.000501"), "0.000501, larger than 1/2,000 (0.0005)"),
        (("--batch", "3000"), "batch.sequences=200"),
    ],
    ids=["delta", "batch"],
)
def test_refusals_say_what_to_write_instead(words: tuple[str, ...], said: str) -> None:
    assert said in refusal(*NUMBERS, *words)


def test_a_delta_that_was_worked_out_says_how() -> None:
    assert "at delta 0.00025 (half of 1/2,000)" in plan(*NUMBERS).stdout


# -- with data ---------------------------------------------------------------------

COMMON = """
[run]
steps = 10
device = "cpu"
[tokenizer]
kind = "file"
file = "tokenizer/tokenizer.json"
[batch]
sequences = 8
[optimizer]
warmup_steps = 1
[checkpoint]
keep_best = false
[privacy]
noise_multiplier = 3.0
epsilon = 20.0
"""


def recipe(folder: Path, text: str, rows: list[dict[str, str]], family: str) -> Path:
    (folder / "tokenizer").mkdir()
    tokenizer("character", family).save(folder / "tokenizer")
    write_jsonl(folder / "train.jsonl", rows)
    path = folder / "mine.toml"
    path.write_text(COMMON + text, encoding="utf-8")
    return path


def decoder(folder: Path, rows: list[dict[str, str]]) -> Path:
    text = """
    [model]
    layers = 1
    width = 16
    heads = 2
    tie_embeddings = false
    [data]
    train = ["train.jsonl"]
    validation_fraction = 0.0
    sequence_length = 48
    [objective]
    softmax = "full"
    """
    return recipe(folder, text, rows, "decoder")


def classifier(folder: Path, labels: str) -> Path:
    text = f"""
    [model]
    family = "encoder"
    layers = 1
    width = 16
    heads = 2
    inner_width = 32
    [data]
    train = ["train.jsonl"]
    validation_fraction = 0.0
    sequence_length = 48
    labels = {labels}
    [objective]
    kind = "classification"
    """
    rows = [{"text": TEXTS[number % 4], "label": "ab"[number % 2]} for number in range(40)]
    return recipe(folder, text, rows, "encoder")


def test_labels_that_do_not_fit_the_recipe_are_found(tmp_path: Path) -> None:
    wrong = classifier(tmp_path, '["a", "c"]')
    found = refusal(wrong)
    assert "train.jsonl:2: the label is none of the 2 known ones (a, c)" in found
    right = plan(wrong, "data.labels=a,b,c", "--json")
    assert right.exit_code == 0, right.output
    document = json.loads(right.stdout)
    assert document["plan"]["units"] == 40
    assert any("no training example has the label c" in each for each in document["warnings"])


def test_it_counts_what_the_run_counts_and_names_the_canaries(tmp_path: Path) -> None:
    # Of each user one record: those of some users are all held out, and they are not protected.
    rows = [{"text": f"{TEXTS[number % 4]} {number}", "by": f"u{number}"} for number in range(40)]
    path = decoder(tmp_path, rows)
    words = (
        *("privacy.canaries=20", "privacy.unit=user", "privacy.user_field=by"),
        *("data.validation_fraction=0.3", "run.steps=2"),
    )
    shown = plan(path, "--json", *words)
    assert shown.exit_code == 0, shown.output
    units = json.loads(shown.stdout)["plan"]["units"]
    run_here(load_recipe(path, ("privacy.enabled=true", *words)), tmp_path / "run", stop_after=0)
    made = json.loads((tmp_path / "run" / "private-plan.json").read_text())
    assert units == made["plan"]["units"] < 40 + 20
    assert "20 of these users are canaries" in plan(path, *words).stdout


def test_a_network_that_a_run_would_refuse_is_refused(tmp_path: Path) -> None:
    path = decoder(tmp_path, [{"text": TEXTS[number % 4]} for number in range(40)])
    assert "are one matrix (a tie)" in refusal(path, "model.tie_embeddings=true")


def test_a_warm_up_that_lasts_most_of_the_run_is_warned_of(tmp_path: Path) -> None:
    path = decoder(tmp_path, [{"text": TEXTS[number % 4]} for number in range(40)])
    document = json.loads(
        plan(path, "privacy.max_epochs=2", "optimizer.warmup_steps=9", "--json").stdout
    )
    assert any("optimizer.warmup_steps=1" in each for each in document["warnings"])
    assert "optimizer.warmup_steps=1" in refusal(path, "optimizer.warmup_steps=30")
