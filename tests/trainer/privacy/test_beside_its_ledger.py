"""Private runs beside ledgers that were used or moved, and beside their twins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.trainer.loop.runs import At, run_here
from tests.trainer.privacy.test_private_runs import charged, load_private
from trainer.commands.privacy_compare import differences
from trainer.distribution.environment import Ranks
from trainer.distribution.group import connect
from trainer.loop.interrupts import StopRequest
from trainer.loop.session import Session
from trainer.privacy.errors import LedgerError
from trainer.privacy.ledger import Budget, Ledger, read_ledger
from trainer.recipe.parse import LoadedRecipe, load_recipe
from trainer.reporting.reporter import Reporters

# Noise that is given needs no solving, which takes seconds.
_SHORT = (
    "run.steps=8",
    "checkpoint.every_steps=2",
    "evaluation.every_steps=0",
    "privacy.noise_multiplier=2",
)


class Notes(At):
    """Keeps what people are told, and stops after the first update."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__(0, stop.ask)
        self.told = ""

    def note(self, text: str) -> None:
        self.told += text + "\n"


def notes_of(loaded: LoadedRecipe, output: Path) -> str:
    """Begin a run, and return what it told."""
    output.mkdir()
    stop = StopRequest()
    notes = Notes(stop)
    with connect(Ranks(), torch.device("cpu"), 15.0) as group:
        Session(loaded, output, Ranks(), group, Reporters([notes])).run(stop)
    return notes.told


def test_a_run_says_what_was_released_before_and_what_remains(tmp_path: Path) -> None:
    ledger = tmp_path / "tiny.ledger"
    Ledger.create(ledger, Budget("tiny", 9.0, 1e-3)).close()
    beside = (f"privacy.ledger={ledger}", "privacy.dataset=tiny", "privacy.canaries=10")
    first = load_private(tmp_path, *_SHORT, *beside)
    told = notes_of(first, tmp_path / "one")
    assert "0.000 was released before" in told
    assert "(10 of them canaries)" in told
    assert "working out the noise" in told
    told = notes_of(first, tmp_path / "two")
    # Its noise was given, and no earlier release raises it.
    assert "is the total with those earlier releases: alone it comes to" in told
    assert "remains" in told


def test_a_run_without_a_ledger_says_what_it_does_not_know(tmp_path: Path) -> None:
    told = notes_of(load_private(tmp_path, *_SHORT), tmp_path / "run")
    assert "ledger: none is named" in told


def test_a_ledger_that_was_moved_under_its_name_goes_on(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = tmp_path / "old" / "tiny.ledger", tmp_path / "new" / "tiny.ledger"
    Ledger.create(old).close()
    begun = load_private(tmp_path, *_SHORT, f"privacy.ledger={old}")
    run_here(begun, tmp_path / "run", stop_after=1)
    old.rename(new)
    with pytest.raises(LedgerError, match="say where it lies now"):
        run_here(begun, tmp_path / "run")
    moved = load_private(tmp_path, *_SHORT, f"privacy.ledger={new}")
    made = run_here(moved, tmp_path / "run", stop_after=4)["steps"]
    assert made > 2
    assert sum(release.charged for release in read_ledger(new).releases) == made


def test_a_run_s_own_ledger_goes_back_to_its_folder(tmp_path: Path) -> None:
    loaded = load_private(tmp_path, *_SHORT)
    run_here(loaded, tmp_path / "run", stop_after=1)
    own = tmp_path / "run" / "privacy-ledger.jsonl"
    own.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(LedgerError, match="Bring it back"):
        run_here(loaded, tmp_path / "run")
    (tmp_path / "elsewhere.jsonl").rename(own)
    made = run_here(loaded, tmp_path / "run", stop_after=4)["steps"]
    assert made > 2
    assert charged(tmp_path / "run") == made


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
