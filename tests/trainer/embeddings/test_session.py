from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.embeddings.texts import as_text, grouped_words
from trainer.checkpointing.record import read_record
from trainer.embeddings.session import train_embeddings
from trainer.embeddings.training import CHUNK
from trainer.embeddings.vectors import WordVectors, nearest
from trainer.errors import CheckpointError, DataError, RecipeError
from trainer.recipe.parse import LoadedRecipe, load_recipe
from trainer.reporting.reporter import RunPlan, StepReport, ValidationReport

SENTENCES = 12_000


class Recorder:
    """Writes down what it is told, and may do something at a step."""

    def __init__(self, at_step=None) -> None:
        self.plan: RunPlan | None = None
        self.steps: list[StepReport] = []
        self.validations: list[ValidationReport] = []
        self.notes: list[str] = []
        self.summary: dict[str, Any] | None = None
        self._at_step = at_step

    def start(self, plan):
        self.plan = plan

    def step(self, report):
        self.steps.append(report)
        if self._at_step:
            self._at_step(report)

    def validation(self, report):
        self.validations.append(report)

    def note(self, text):
        self.notes.append(text)

    def finish(self, summary):
        self.summary = dict(summary)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = Path(tmp_path_factory.mktemp("text")) / "text.txt"
    path.write_text(as_text(grouped_words(SENTENCES)))
    return path


def recipe(text: Path, *changes: str) -> LoadedRecipe:
    return load_recipe(
        "word-embeddings",
        [
            f"data.train={text}",
            "data.format=lines",
            "data.validation_fraction=0.1",
            "model.width=16",
            "objective.subsample=0",
            "objective.window=3",
            "optimizer.learning_rate=0.05",
            "run.steps=3",
            "report.html=false",
            *changes,
        ],
    )


def test_a_run_ends_with_a_checkpoint_whose_neighbours_keep_company(tmp_path, text):
    told = Recorder()
    summary = train_embeddings(recipe(text), tmp_path, told)
    assert summary["finished"]
    assert (summary["reason"], summary["steps"]) == ("done", 3)
    # Nine tenths of the lines, eight words each, three times.
    assert summary["tokens"] == pytest.approx(0.9 * SENTENCES * 8 * 3, rel=0.05)
    final = tmp_path / "final"
    assert summary["checkpoint"] == str(final)
    assert {each.word for each in nearest(final, "worda", 4)} == {
        "wordb", "wordc", "wordd", "worde"
    }  # fmt: skip
    record = read_record(final)
    assert record.recipe["model"]["family"] == "word-embeddings"
    assert record.metrics["validation_loss"] == summary["validation_loss"]
    assert set(record.files) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_the_reporter_is_told_of_every_chunk_and_every_pass(tmp_path, text):
    told = Recorder()
    summary = train_embeddings(recipe(text), tmp_path, told)
    assert told.plan is not None
    assert told.plan.steps == len(told.steps) == summary["chunks"]
    assert [each.step for each in told.steps] == list(range(1, told.plan.steps + 1))
    assert told.steps[-1].tokens == summary["tokens"]
    losses = [each.loss for each in told.validations]
    assert len(losses) == 3
    assert losses[2] < losses[0] < 6 * np.log(2)
    assert told.summary is not None
    assert told.summary["validation_loss"] == losses[2]


def once(act):
    left = [act]
    return lambda report: left.pop()(report) if left else None


def interrupt(report: StepReport) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_was_interrupted_goes_on_to_the_very_same_vectors(tmp_path, text):
    whole = train_embeddings(recipe(text), tmp_path / "whole", Recorder())
    cut = tmp_path / "cut"
    summary: dict[str, Any] = {"chunks": 0}
    for _ in range(2):
        before = summary["chunks"]
        told = Recorder(once(interrupt))
        summary = train_embeddings(recipe(text), cut, told)
        assert (summary["finished"], summary["reason"]) == (False, "asked")
        # What was begun is ended, and no more.
        assert before < summary["chunks"] == told.steps[-1].step < whole["chunks"]
        assert not (cut / "final").exists()
    told = Recorder()
    last = train_embeddings(recipe(text), cut, told)
    assert last["finished"]
    assert told.plan is not None
    assert told.plan.first_step == summary["chunks"]
    one, other = (WordVectors.load(tmp_path / name / "final") for name in ("whole", "cut"))
    assert (one.inputs == other.inputs).all()
    assert (one.outputs == other.outputs).all()
    assert last["validation_loss"] == whole["validation_loss"]


def test_a_limit_of_time_ends_the_run_with_a_checkpoint(tmp_path, text):
    loaded = recipe(text, "run.max_minutes=1e-9", "run.steps=1000")
    summary = train_embeddings(loaded, tmp_path, Recorder())
    assert (summary["finished"], summary["reason"]) == (True, "time")
    assert summary["chunks"] < 1000
    assert (tmp_path / "final" / "training.json").is_file()


def test_going_on_with_another_recipe_is_refused(tmp_path, text):
    train_embeddings(recipe(text), tmp_path, Recorder(once(interrupt)))
    with pytest.raises(CheckpointError, match="another recipe"):
        train_embeddings(recipe(text, "objective.negatives=6"), tmp_path, Recorder())


def test_going_on_with_other_data_is_refused(tmp_path, text):
    own = tmp_path / text.name
    own.write_text(text.read_text())
    train_embeddings(recipe(own), tmp_path / "run", Recorder(once(interrupt)))
    own.write_text(as_text(grouped_words(SENTENCES, seed=1)))
    with pytest.raises(CheckpointError, match="other data"):
        train_embeddings(recipe(own), tmp_path / "run", Recorder())


def test_a_text_of_unknown_words_is_refused(tmp_path):
    path = tmp_path / "rare.txt"
    path.write_text("\n".join(f"single{number}" for number in range(100)))
    with pytest.raises(DataError, match="minimum_count"):
        train_embeddings(recipe(path), tmp_path / "run", Recorder())


def test_several_ranks_are_refused(tmp_path, text, monkeypatch):
    for name, value in {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="one process with threads"):
        train_embeddings(recipe(text), tmp_path, Recorder())


def test_a_text_of_one_chunk_and_without_held_out_text(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(as_text(grouped_words(50)))
    loaded = recipe(path, "data.validation_fraction=0", "run.steps=2")
    told = Recorder()
    summary = train_embeddings(loaded, tmp_path / "run", told)
    assert summary["chunks"] == 2
    assert CHUNK > 50 * 9
    assert summary["validation_loss"] is None
    assert told.validations == []
