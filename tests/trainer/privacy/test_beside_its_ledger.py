"""Private runs beside ledgers that were used or moved, and beside their twins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.trainer.loop.runs import run_here
from tests.trainer.privacy.test_private_runs import charged, load_private
from trainer.commands.privacy_compare import differences
from trainer.privacy.errors import LedgerError
from trainer.privacy.ledger import Budget, Ledger, read_ledger
from trainer.recipe.parse import LoadedRecipe, load_recipe

_SHORT = ("run.steps=4", "checkpoint.every_steps=2", "evaluation.every_steps=0")


def notes_of(loaded: LoadedRecipe, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a recipe as a command does, and return what it told."""
    from trainer.loop.session import run

    run(loaded, output, environ={})
    return capsys.readouterr().err


def test_a_run_says_what_was_released_before_and_what_remains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "tiny.ledger"
    Ledger.create(ledger, Budget("tiny", 9.0, 1e-3)).close()
    beside = (f"privacy.ledger={ledger}", "privacy.dataset=tiny", "privacy.canaries=10")
    first = load_private(tmp_path, *_SHORT, *beside, "privacy.epsilon=3")
    told = notes_of(first, tmp_path / "one", capsys)
    assert "0.000 was released before" in told
    assert "(10 of them canaries)" in told
    assert "working out the noise" in told
    again = load_private(tmp_path, *_SHORT, *beside, "privacy.epsilon=5")
    told = notes_of(again, tmp_path / "two", capsys)
    assert "is the total with those earlier releases, so this run gets more noise" in told
    assert "remains" in told


def test_a_run_without_a_ledger_says_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = notes_of(load_private(tmp_path, *_SHORT), tmp_path / "run", capsys)
    assert "ledger: none is named" in told


def test_a_ledger_that_was_moved_under_its_name_goes_on(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = tmp_path / "old" / "tiny.ledger", tmp_path / "new" / "tiny.ledger"
    Ledger.create(old).close()
    begun = load_private(tmp_path, *_SHORT, f"privacy.ledger={old}")
    run_here(begun, tmp_path / "run", stop_after=2)
    old.rename(new)
    with pytest.raises(LedgerError, match="say where it lies now"):
        run_here(begun, tmp_path / "run")
    moved = load_private(tmp_path, *_SHORT, f"privacy.ledger={new}")
    assert run_here(moved, tmp_path / "run")["finished"]
    assert sum(release.charged for release in read_ledger(new).releases) == 4


def test_a_run_s_own_ledger_goes_back_to_its_folder(tmp_path: Path) -> None:
    loaded = load_private(tmp_path, *_SHORT)
    run_here(loaded, tmp_path / "run", stop_after=2)
    own = tmp_path / "run" / "privacy-ledger.jsonl"
    own.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(LedgerError, match="Bring it back"):
        run_here(loaded, tmp_path / "run")
    (tmp_path / "elsewhere.jsonl").rename(own)
    assert run_here(loaded, tmp_path / "run")["finished"]
    assert charged(tmp_path / "run") == 4


def test_a_twin_that_read_the_same_data_from_elsewhere_differs_in_nothing(tmp_path: Path) -> None:
    run_here(load_private(tmp_path, *_SHORT), tmp_path / "run")
    shutil.copy(tmp_path / "corpus.txt", tmp_path / "copied.txt")
    recipe = tmp_path / "tiny.toml"
    made = load_private(tmp_path, *_SHORT).overrides
    twin = (*made, "privacy.enabled=false", f"data.train={tmp_path / 'copied.txt'}")
    run_here(load_recipe(recipe, twin), tmp_path / "twin")
    private, other = tmp_path / "run" / "final", tmp_path / "twin" / "final"
    assert differences(private, other) == []
    # Other data is told, and so is another recipe.
    text = (tmp_path / "corpus.txt").read_text()
    (tmp_path / "copied.txt").write_text(text + "one more line tells nothing.\n")
    run_here(load_recipe(recipe, (*twin, "run.seed=5")), tmp_path / "other")
    assert differences(private, tmp_path / "other" / "final") == ["data.train", "run.seed"]
    # Without the key of the private run, names have to do.
    (tmp_path / "run" / "data.key").unlink()
    assert "data.train" in differences(private, other)
