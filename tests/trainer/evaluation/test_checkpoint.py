"""Checkpoint directories of every task on files."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch

from tests.trainer.evaluation.checkpoints import LABELS, TASKS, make, write_data
from trainer.errors import CheckpointError, DataError, RecipeError
from trainer.evaluation.checkpoint import evaluate_checkpoint
from trainer.evaluation.opening import choose_device, kind_of, open_checkpoint
from trainer.recipe.schema import DataOptions, ObjectiveOptions


@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_is_measured_by_its_own_objective(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    folder = make(task).export(tmp_path / "model")
    before = sorted(path.name for path in folder.rglob("*"))
    result = evaluate_checkpoint(folder, [write_data(task, tmp_path)], device="cpu")
    assert result.objective == TASKS[task][1]
    assert result.examples > 0
    assert 0 < result.loss < 30
    # Nothing is left behind, and nothing was written into the checkpoint.
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in folder.rglob("*")) == before


@pytest.mark.parametrize("task", ["decoder", "masked", "classifier", "tagger", "embedding"])
def test_a_plain_model_directory_says_what_it_is(task: str, tmp_path: Path) -> None:
    made = make(task)
    folder = made.save(tmp_path / "plain")
    assert kind_of(open_checkpoint(folder, "cpu").network) == TASKS[task][1]
    result = evaluate_checkpoint(
        folder, [write_data(task, tmp_path)], data=made.recipe.data, device="cpu"
    )
    exported = evaluate_checkpoint(
        made.export(tmp_path / "model"), [write_data(task, tmp_path)], device="cpu"
    )
    assert result.loss == pytest.approx(exported.loss)
    assert dict(result.metrics) == pytest.approx(dict(exported.metrics))


def test_labels_come_from_the_checkpoint(tmp_path: Path) -> None:
    folder = make("classifier").export(tmp_path / "model")
    path = tmp_path / "one-sided.tsv"
    path.write_text("text\tlabel\namber birch\tgood\ncedar delta\tgood\n")
    result = evaluate_checkpoint(folder, [path], device="cpu")
    assert result.labels == LABELS
    assert sum(result.confusion[0]) == 0


def test_another_objective_can_be_measured_where_it_fits(tmp_path: Path) -> None:
    folder = make("seq2seq").export(tmp_path / "model")
    data = DataOptions(sequence_length=16)
    result = evaluate_checkpoint(
        folder,
        [write_data("infilling", tmp_path)],
        objective=ObjectiveOptions(kind="infilling"),
        data=data,
        device="cpu",
    )
    assert result.objective == "infilling"


@pytest.mark.parametrize(
    ("task", "kind"),
    [("embedding", "masked"), ("decoder", "classification"), ("classifier", "tagging")],
)
def test_what_has_no_output_layer_for_it_is_refused(task: str, kind: str, tmp_path: Path) -> None:
    folder = make(task).export(tmp_path / "model")
    with pytest.raises(RecipeError, match=f"cannot be measured by '{kind}'"):
        evaluate_checkpoint(
            folder,
            [write_data(task, tmp_path)],
            objective=ObjectiveOptions(kind=kind),
            device="cpu",
        )


def test_sequences_are_no_longer_than_the_network_allows(tmp_path: Path) -> None:
    made = make("masked")
    folder = made.save(tmp_path / "plain")
    path = write_data("masked", tmp_path)
    # 256 by default, and the network has 16 positions.
    wide = evaluate_checkpoint(folder, [path], device="cpu", data=DataOptions())
    fitting = evaluate_checkpoint(folder, [path], device="cpu", data=made.recipe.data)
    assert dataclasses.replace(wide, seconds=0.0) == dataclasses.replace(fitting, seconds=0.0)


def test_an_unreadable_training_record_is_an_error(tmp_path: Path) -> None:
    folder = make("decoder").export(tmp_path / "model")
    (folder / "training.json").write_text('{"recipe": {}}')
    with pytest.raises(CheckpointError, match=r"training\.json"):
        open_checkpoint(folder, "cpu")


def test_missing_weights_and_tokenizers_are_errors(tmp_path: Path) -> None:
    folder = make("decoder").save(tmp_path / "plain")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError):
        open_checkpoint(folder, "cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises((CheckpointError, RecipeError)):
        open_checkpoint(folder, "cpu")


def test_missing_data_is_an_error(tmp_path: Path) -> None:
    folder = make("decoder").export(tmp_path / "model")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(DataError, match=r"empty\.txt"):
        evaluate_checkpoint(folder, [empty], device="cpu")


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert choose_device("auto").type == "cuda"
    else:
        assert choose_device("auto").type == "cpu"
        with pytest.raises(RecipeError, match="no GPU"):
            choose_device("cuda")
