"""Private runs from a recipe to a claim: whole, cut, killed, and refused."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.loop.runs import command, load_tiny, run_here, start, write_recipe
from trainer.data.assemble import build_data
from trainer.data.tokenizer_training import train_tokenizer
from trainer.distribution.environment import Ranks
from trainer.distribution.group import connect
from trainer.errors import RecipeError
from trainer.loop.session import run
from trainer.privacy.errors import BudgetExhausted, LedgerError, PrivacyError
from trainer.privacy.ledger import Budget, Ledger, read_ledger
from trainer.privacy.preparation import LEDGER_FILE, PLAN_FILE, begin, prepare
from trainer.privacy.record import read_report
from trainer.recipe.parse import LoadedRecipe, load_recipe
from trainer.recipe.schema import TokenizerOptions

_PRIVATE = (
    "privacy.enabled=true",
    "data.format=lines",
    "data.sequence_length=48",
    "tokenizer.kind=file",
    "model.tie_embeddings=false",
    "model.dropout=0",
    "objective.softmax=full",
    "batch.sequences=40",
    "batch.micro_sequences=20",
    "optimizer.weight_decay=0",
    "checkpoint.keep_best=false",
    "evaluation.samples=0",
)


def words(folder: Path, *more: str) -> tuple[str, ...]:
    """Return what makes the tiny recipe private; its tokenizer knows nothing of the data."""
    public = folder / "tokenizer"
    if not public.exists():
        public.mkdir(parents=True)
        letters = "abcdefghijklmnopqrstuvwxyz0123456789 .\n"
        options = TokenizerOptions(kind="character")
        train_tokenizer(options, [letters], "decoder").tokenizer.save(public)
    return (*_PRIVATE, f"tokenizer.file={public / 'tokenizer.json'}", *more)


def load_private(folder: Path, *more: str) -> LoadedRecipe:
    return load_tiny(folder, *words(folder, *more))


def charged(run: Path) -> int:
    return sum(release.charged for release in read_ledger(run / LEDGER_FILE).releases)


def test_a_private_run_ends_with_a_claim_that_its_ledger_bears_out(tmp_path: Path) -> None:
    summary = run_here(load_private(tmp_path), tmp_path / "run")
    assert summary["finished"]
    assert charged(tmp_path / "run") == 12
    report = read_report(tmp_path / "run" / "final")
    assert 0 < report.claim.epsilon <= 8.0
    assert report.claim.unit == "record"
    assert (tmp_path / "run" / "privacy.html").exists()


def test_a_cut_run_keeps_its_plan_and_charges_no_less(tmp_path: Path) -> None:
    loaded = load_private(tmp_path)
    run_here(loaded, tmp_path / "run", stop_after=5)
    plan = (tmp_path / "run" / "private-plan.json").read_bytes()
    assert charged(tmp_path / "run") == 6
    assert run_here(loaded, tmp_path / "run")["finished"]
    assert (tmp_path / "run" / "private-plan.json").read_bytes() == plan
    assert charged(tmp_path / "run") == 12
    assert read_report(tmp_path / "run" / "final").claim.epsilon <= 8.0


def test_updates_that_are_made_again_are_charged_again(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    overrides = words(tmp_path, "run.steps=5000", "checkpoint.every_steps=10", "privacy.epsilon=50")
    first = start(command(recipe, tmp_path / "run", *overrides))
    reached = kill_after_charges(first, tmp_path / "run", 15)
    loaded = load_tiny(tmp_path, *overrides)
    run_here(loaded, tmp_path / "run", stop_after=25)
    # Saved after update 10 or 20: what lies beyond was charged, lost, and charged again.
    assert charged(tmp_path / "run") > 26
    assert charged(tmp_path / "run") >= reached


def kill_after_charges(child: subprocess.Popen[str], run: Path, count: int) -> int:
    deadline = time.monotonic() + 90
    try:
        while time.monotonic() < deadline and child.poll() is None:
            saved = list(run.glob("checkpoints/step-*0"))
            if saved and charged(run) >= count and charged(run) % 10 > 4:
                break
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.communicate(timeout=60)
    return charged(run)


def test_a_ledger_that_was_edited_stops_the_run(tmp_path: Path) -> None:
    loaded = load_private(tmp_path)
    run_here(loaded, tmp_path / "run", stop_after=5)
    ledger = tmp_path / "run" / LEDGER_FILE
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-2]))
    with pytest.raises(LedgerError):
        run_here(loaded, tmp_path / "run")


def test_a_ledger_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    loaded = load_private(tmp_path)
    run_here(loaded, tmp_path / "run", stop_after=5)
    (tmp_path / "run" / LEDGER_FILE).unlink()
    with pytest.raises(LedgerError):
        run_here(loaded, tmp_path / "run")
    assert not (tmp_path / "run" / LEDGER_FILE).exists()


def test_a_budget_is_kept_before_the_first_update(tmp_path: Path) -> None:
    path = tmp_path / "owner.jsonl"
    Ledger.create(path, Budget("tiny", 1.0, 1e-3)).close()
    loaded = load_private(tmp_path, f"privacy.ledger={path}", "privacy.dataset=tiny")
    loaded = dataclasses.replace(loaded, name="tiny")
    with pytest.raises(PrivacyError) as refused:
        run_here(loaded, tmp_path / "run")
    assert isinstance(refused.value, BudgetExhausted)
    assert sum(release.charged for release in read_ledger(path).releases) == 0


def test_a_ledger_that_a_recipe_names_must_be_there(tmp_path: Path) -> None:
    loaded = load_private(tmp_path, f"privacy.ledger={tmp_path / 'none.jsonl'}")
    with pytest.raises(LedgerError, match="casemate privacy ledger init"):
        run_here(loaded, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("model.tie_embeddings=true", "tie"),
        ("objective.softmax=chunked", "softmax"),
        ("tokenizer.kind=character", "tokenizer"),
        ("privacy.delta=0.09", "delta"),
        ("batch.sequences=4000", "batch"),
        ("privacy.noise_multiplier=0.1", "epsilon"),
        ("precision.compile=true", "compile"),
        ("precision.activation_checkpointing=true", "activation_checkpointing"),
    ],
)
def test_what_cannot_be_claimed_is_refused_by_name(
    tmp_path: Path, change: str, reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason):
        run(load_private(tmp_path, change), tmp_path / "run", quiet=True, environ={})
    assert not (tmp_path / "run" / LEDGER_FILE).exists()
    assert not (tmp_path / "run" / PLAN_FILE).exists()


def test_word_embeddings_are_not_trained_without_the_privacy_that_was_asked_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "corpus.txt").write_text("the cat sees the dog and the dog sees the cat\n" * 50)
    overrides = [f"data.train={tmp_path / 'corpus.txt'}", "privacy.enabled=true"]
    loaded = load_recipe("word-embeddings", overrides)
    with pytest.raises(PrivacyError, match="word embeddings"):
        run(loaded, tmp_path / "run", quiet=True, environ={})
    assert not (tmp_path / "run" / "final").exists()


def test_another_recipe_in_a_folder_that_learned_nothing_gets_a_plan_of_its_own(
    tmp_path: Path,
) -> None:
    # The first one is charged and cut before its first checkpoint.
    strict = load_private(tmp_path, "privacy.epsilon=1")
    charge_once(strict, tmp_path / "run")
    first = plan_of(tmp_path / "run")
    run_here(load_private(tmp_path, "privacy.epsilon=4"), tmp_path / "run")
    second = plan_of(tmp_path / "run")
    assert first["run_id"] != second["run_id"]
    assert second["plan"]["noise_multiplier"] < first["plan"]["noise_multiplier"]
    # What the first was charged is not forgotten.
    assert charged(tmp_path / "run") == 1 + 12
    assert read_report(tmp_path / "run" / "final").claim.epsilon <= 4.0


def test_a_start_that_learned_the_same_data_without_privacy_is_refused(tmp_path: Path) -> None:
    run_here(load_private(tmp_path, "privacy.enabled=false"), tmp_path / "open")
    words = (f"model.source={tmp_path / 'open' / 'final'}", "tokenizer.kind=bpe")
    with pytest.raises(PrivacyError, match="same data already"):
        run_here(load_private(tmp_path, *words), tmp_path / "run")
    assert not (tmp_path / "run" / LEDGER_FILE).exists()


def charge_once(loaded: LoadedRecipe, output: Path) -> None:
    """Prepare a run and charge one update of it, as one that dies right then leaves it."""
    output.mkdir(parents=True)
    with connect(Ranks(), torch.device("cpu"), 15.0) as group:
        data = build_data(loaded.recipe, output, None)
        prepared = prepare(loaded, output, group, data)
        releases = begin(prepared, group, step=0, head=None)
        releases.charge(0)
        releases.close()


def plan_of(output: Path) -> dict[str, Any]:
    found = json.loads((output / PLAN_FILE).read_text())
    if not isinstance(found, dict):
        raise TypeError("the plan is no table")
    return found


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_make_one_private_run(tmp_path: Path, strategy: str) -> None:
    recipe = write_recipe(tmp_path)
    output = tmp_path / "run"
    overrides = words(tmp_path, "batch.micro_sequences=10", f"distribution.strategy={strategy}")
    both = start(command(recipe, output, *overrides, "--ranks", "2"))
    _, errors = both.communicate(timeout=100)
    assert both.returncode == 0, errors
    # One ledger, charged once for each update, whoever computed it.
    assert charged(output) == 12
    claim: dict[str, Any] = json.loads((output / "final" / "privacy.json").read_text())["claim"]
    assert claim["epsilon"] <= 8.0


def test_a_sharded_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    output = tmp_path / "run"
    overrides = words(
        tmp_path,
        "batch.micro_sequences=10",
        "distribution.strategy=fsdp",
        "run.steps=400",
        "evaluation.every_steps=0",
    )
    first = start(command(recipe, output, *overrides, "--ranks", "2"))
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and first.poll() is None:
            if (output / LEDGER_FILE).exists() and charged(output) >= 3:
                break
            time.sleep(0.01)
        first.send_signal(signal.SIGINT)
    finally:
        _, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    done = charged(output)
    assert 3 <= done < 400
    # Shards of two ranks are whole weights for one.
    again = load_tiny(tmp_path, *overrides, "distribution.strategy=ddp")
    assert run_here(again, output, stop_after=done + 2)["steps"] == done + 3
    assert charged(output) == done + 3
