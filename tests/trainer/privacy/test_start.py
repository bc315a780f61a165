"""What a private run begins with: weights that learned the same data are counted, or refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.trainer.loop.runs import run_here
from tests.trainer.privacy.test_private_runs import charged, load_private
from trainer.checkpointing.keyed import KEY_FILE
from trainer.errors import CheckpointError
from trainer.privacy.errors import PrivacyError
from trainer.privacy.preparation import LEDGER_FILE
from trainer.privacy.record import REPORT_NAME, read_report
from trainer.privacy.start import refuse_known_start
from trainer.recipe.parse import LoadedRecipe

_SMALL = (
    "run.steps=2",
    "optimizer.warmup_steps=0",
    "checkpoint.every_steps=0",
    "evaluation.every_steps=0",
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private run's folder, with a ledger of its own."""
    folder = tmp_path_factory.mktemp("first")
    run_here(load_private(folder, *_SMALL, "privacy.epsilon=2"), folder / "run")
    return folder / "run"


def going_on(folder: Path, start: Path, *more: str) -> LoadedRecipe:
    """A second run on the same data, from what the first one exported."""
    return load_private(
        folder, *_SMALL, f"model.source={start / 'final'}", "tokenizer.kind=bpe", *more
    )


def test_a_private_start_on_the_same_data_is_not_forgotten(first: Path, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="does not hold what that released of 'tiny'"):
        run_here(going_on(tmp_path, first), tmp_path / "run")
    assert not (tmp_path / "run" / LEDGER_FILE).exists()


def test_in_the_ledger_of_the_first_run_both_are_claimed(first: Path, tmp_path: Path) -> None:
    ledger = shutil.copy(first / LEDGER_FILE, tmp_path / "tickets.ledger")
    named = f"privacy.ledger={ledger}"
    with pytest.raises(PrivacyError, match="of 'others'"):
        run_here(going_on(tmp_path, first, named, "privacy.dataset=others"), tmp_path / "other")
    run_here(going_on(tmp_path, first, named), tmp_path / "run")
    before = read_report(first / "final").claim.epsilon
    report = read_report(tmp_path / "run" / "final")
    assert [each.steps for each in report.composition.earlier] == [charged(first)]
    assert report.claim.epsilon > max(before, report.composition.epsilon_of_this_run)


def sources(first: Path) -> list[dict[str, str]]:
    corpus = first.parent / "corpus.txt"
    return [{"sha256": hashlib.sha256(corpus.read_bytes()).hexdigest(), "role": "train"}]


def test_without_the_key_it_is_said_that_nobody_knows(first: Path, tmp_path: Path) -> None:
    final = shutil.copytree(first / "final", tmp_path / "final")
    (warning,) = refuse_known_start(str(final), sources(first), ledger=None, dataset="tiny")
    assert "epsilon is the sum of both" in warning
    # Other data, by the key: nothing to say.
    other = [{"sha256": "ab" * 32, "role": "train"}]
    assert refuse_known_start(str(first / "final"), other, ledger=None, dataset="tiny") == ()
    assert refuse_known_start("", sources(first), ledger=None, dataset="tiny") == ()


def test_a_start_without_its_report_was_charged_nobody_knows_where(
    first: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(first, tmp_path / "run")
    (run / "final" / REPORT_NAME).unlink()
    with pytest.raises(PrivacyError, match="does not hold"):
        refuse_known_start(
            str(run / "final"), sources(first), ledger=run / LEDGER_FILE, dataset="tiny"
        )
    (run / KEY_FILE).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="damaged"):
        refuse_known_start(str(run / "final"), sources(first), ledger=None, dataset="tiny")


def test_a_record_that_cannot_be_read_is_no_start(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(PrivacyError, match="does not say what it was trained on"):
        refuse_known_start(str(tmp_path), [], ledger=None, dataset="tiny")
