"""A run, its end, and going on where it was cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.loop.runs import load_tiny, losses, run_here
from trainer.commands.run_folder import examine
from trainer.errors import (
    CheckpointError,
    DataError,
    MemoryEstimateError,
    RecipeError,
    TrainingError,
)
from trainer.loop.claim import claim
from trainer.loop.session import run


def weights(output: Path) -> bytes:
    return (output / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_here(load_tiny(folder), folder / "run")
    return folder / "run"


def test_a_run_leaves_everything_that_it_promises(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names >= {"recipe.toml", "checkpoints", "final", "metrics.jsonl", "report.html"} - {
        "recipe.toml"  # written by `run`, which the command calls
    }
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["finished"]
    assert summary["steps"] == 12
    assert summary["tokens"] == 12 * 8 * 16
    assert sorted(losses(whole)) == list(range(1, 13))
    assert summary["validation_loss"] == pytest.approx(summary["evaluation"]["loss"], rel=1e-5)


def test_it_learns(whole: Path) -> None:
    curve = losses(whole)
    assert curve[12] < curve[1] - 0.3


def test_the_final_checkpoint_is_an_ordinary_hugging_face_directory(whole: Path) -> None:
    final = whole / "final"
    model = AutoModelForCausalLM.from_pretrained(final, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(final, local_files_only=True)
    ids = tokenizer("line 7", return_tensors="pt")["input_ids"]
    assert ids.shape[1] == 6
    assert torch.isfinite(model(ids).logits).all()


@pytest.mark.parametrize("cut", [3, 4, 9])
def test_a_cut_run_ends_with_the_very_same_weights(whole: Path, tmp_path: Path, cut: int) -> None:
    loaded = load_tiny(tmp_path)
    first = run_here(loaded, tmp_path / "run", stop_after=cut)
    assert not first["finished"]
    assert first["steps"] == cut + 1
    assert not (tmp_path / "run" / "final").exists()
    assert run_here(loaded, tmp_path / "run")["finished"]
    assert weights(tmp_path / "run") == weights(whole)
    assert losses(tmp_path / "run") == losses(whole)


def test_validating_changes_nothing(whole: Path, tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path, "evaluation.every_steps=2", "checkpoint.keep_best=false")
    run_here(loaded, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole)


def test_the_best_checkpoint_is_exported_not_the_last(tmp_path: Path) -> None:
    # A rate that ruins what the first updates learned: the best is not the last.
    words = (
        "optimizer.learning_rate=3",
        "optimizer.clip_norm=0",
        "optimizer.schedule=constant",
        "optimizer.warmup_steps=12",
        "evaluation.every_steps=1",
    )
    summary = run_here(load_tiny(tmp_path, *words), tmp_path / "run")
    assert summary["best_step"] < summary["steps"]
    assert summary["evaluation"]["loss"] == pytest.approx(summary["validation_loss"], rel=1e-5)
    record = json.loads((tmp_path / "run" / "final" / "training.json").read_text())
    assert record["steps"] == summary["best_step"]


def test_early_stopping_ends_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    words = (
        "optimizer.learning_rate=0.9",
        "optimizer.clip_norm=0",
        "evaluation.every_steps=1",
        "evaluation.patience=2",
        "run.steps=200",
    )
    summary = run_here(load_tiny(tmp_path, *words), tmp_path / "run")
    assert summary["reason"] == "early"
    assert summary["steps"] == summary["best_step"] + 2


def test_it_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path)
    run_here(loaded, tmp_path / "run", stop_after=5)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(corpus.read_text().replace("tells", "stell"))
    with pytest.raises(CheckpointError, match="other data"):
        run_here(loaded, tmp_path / "run")


def test_another_recipe_is_refused_by_what_differs(tmp_path: Path) -> None:
    run_here(load_tiny(tmp_path), tmp_path / "run", stop_after=5)
    with pytest.raises(CheckpointError, match=r"optimizer\.beta1"):
        run_here(load_tiny(tmp_path, "optimizer.beta1=0.8"), tmp_path / "run")


def test_a_recipe_that_does_not_fit_memory_is_refused_with_figures(tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path, "model.width=65536", "model.layers=200", "model.heads=512")
    with pytest.raises(MemoryEstimateError, match=r"[0-9.,]+ [GTP]iB"):
        run_here(loaded, tmp_path / "run")


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path)
    (tmp_path / "corpus.txt").write_text("")
    with pytest.raises(DataError, match=r"corpus\.txt"):
        run_here(loaded, tmp_path / "run")


def test_a_batch_that_micro_batches_cannot_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="multiple"):
        load_tiny(tmp_path, "batch.micro_sequences=3")


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (
        claim(tmp_path / "run"),
        pytest.raises(TrainingError, match="another process is running"),
    ):
        run(load_tiny(tmp_path), tmp_path / "run", quiet=True, environ={})
    # The lock is gone with its holder, and what was refused left nothing behind.
    summary = run(load_tiny(tmp_path), tmp_path / "run", quiet=True, environ={})
    assert summary is not None
    assert summary["finished"]


def test_the_record_tells_the_figures_of_the_weights_that_are_exported(tmp_path: Path) -> None:
    # Without choosing the best, the last weights go out: with their own figures.
    words = (
        "optimizer.learning_rate=3",
        "optimizer.clip_norm=0",
        "optimizer.schedule=constant",
        "optimizer.warmup_steps=12",
        "evaluation.every_steps=1",
        "checkpoint.keep_best=false",
    )
    summary = run_here(load_tiny(tmp_path, *words), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "final" / "training.json").read_text())
    assert record["steps"] == summary["steps"] == 12
    measured = summary["evaluation"]["loss"]
    assert record["metrics"]["validation_loss"] == pytest.approx(measured, rel=1e-5)
    assert measured > summary["validation_loss"] + 0.1


def test_a_stop_where_a_validation_is_due_validates_first(whole: Path, tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path)
    # The wish of step 5's report is heard in update 6, where a validation is due.
    first = run_here(loaded, tmp_path / "run", stop_after=5)
    assert first["steps"] == 6
    assert first["validation_loss"] is not None
    run_here(loaded, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(whole)
    assert summary_of(tmp_path / "run")["best_step"] == summary_of(whole)["best_step"]


def summary_of(output: Path) -> dict[str, object]:
    found = json.loads((output / "summary.json").read_text())
    if not isinstance(found, dict):
        raise TypeError("summary.json holds no table")
    return found


def test_a_wish_to_stop_during_the_last_update_changes_nothing(whole: Path, tmp_path: Path) -> None:
    summary = run_here(load_tiny(tmp_path), tmp_path / "run", stop_after=11)
    assert summary["finished"]
    assert weights(tmp_path / "run") == weights(whole)


def test_a_run_killed_while_its_checkpoint_was_measured_is_measured(
    whole: Path, tmp_path: Path
) -> None:
    loaded = load_tiny(tmp_path)
    output = tmp_path / "run"
    run(loaded, output, quiet=True, environ={})
    for name in ("summary.json", "evaluation.json", "samples.json", "report.html"):
        (output / name).unlink()
    assert examine(output, loaded) == "continue"
    assert run_here(loaded, output)["finished"]
    assert (output / "evaluation.json").exists()
    assert (output / "report.html").exists()
    assert weights(output) == weights(whole)


def test_a_run_that_stopped_early_and_was_killed_does_not_train_on(tmp_path: Path) -> None:
    words = (
        "optimizer.learning_rate=0.9",
        "optimizer.clip_norm=0",
        "evaluation.every_steps=1",
        "evaluation.patience=2",
        "run.steps=200",
    )
    loaded = load_tiny(tmp_path, *words)
    first = run_here(loaded, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    again = run_here(loaded, tmp_path / "run")
    assert again["reason"] == first["reason"] == "early"
    assert again["steps"] == first["steps"]


def test_time_that_is_over_ends_a_run_properly(tmp_path: Path) -> None:
    loaded = load_tiny(tmp_path, "run.steps=100000", "run.max_minutes=0.01")
    summary = run_here(loaded, tmp_path / "run")
    assert summary["reason"] == "time"
    assert summary["finished"]
    assert summary["validation_loss"] is not None


def test_a_lock_that_is_a_link_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(TrainingError, match=r"run\.lock"):
        run(load_tiny(tmp_path), tmp_path / "run", quiet=True, environ={})
    assert (tmp_path / "precious").read_text() == "kept"
