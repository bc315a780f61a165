"""`casemate evaluate` as typed: what it refuses, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from casemate.cli.main import cli
from security.errors import UsageError
from trainer.commands.evaluate import model_folder
from trainer.commands.figures import render_neighbours, render_result, render_text


def typed(*words: str) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *words])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_of_a_runs_folder_the_final_checkpoint_is_taken(model: Path) -> None:
    run = model.parent / "run"
    run.mkdir()
    model.rename(run / "final")
    assert model_folder(run) == run / "final"
    assert model_folder(run / "final") == run / "final"


def test_an_unfinished_run_and_another_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a checkpoint is a model directory"):
        model_folder(tmp_path)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(UsageError, match="is not finished"):
        model_folder(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give DATA to measure on, or --text"),
        (("--text", "x", "data.tsv"), "not both"),
        (("missing.tsv",), "there is no file or directory missing.tsv"),
        (("data.text_field=a",), "give DATA"),
    ],
)
def test_mistakes_are_known_errors(model: Path, words: tuple[str, ...], message: str) -> None:
    result = typed(str(model), *words)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_only_how_data_is_read_can_be_changed(model: Path) -> None:
    (model.parent / "d.tsv").write_text("x\t1\n")
    result = typed(str(model), str(model.parent / "d.tsv"), "run.steps=3")
    assert isinstance(result.exception, UsageError)
    assert "only data.KEY=VALUE" in str(result.exception)


def test_an_evaluation_is_shown_with_intervals_and_labels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 4, "predicted": 2}
    render_result(
        {
            "objective": "classification",
            "examples": 872,
            "targets": 872,
            "seconds": 2.5,
            "loss": 0.3,
            "metrics": {"accuracy": 0.9, "f1_macro": 0.89},
            "intervals": {"accuracy": [0.88, 0.92]},
            "per_label": {"0": figures},
            "notes": ["seen before"],
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "classification on 872 examples, 872 targets, 2.5 s"
    assert any(line.split() == ["accuracy", "0.9000", "0.8800", "to", "0.9200"] for line in lines)
    assert any(line.split() == ["0", "0.5000", "0.2500", "0.3333", "4"] for line in lines)
    assert lines[-1] == "note: seen before"


def test_a_text_is_shown_token_by_token(capsys: pytest.CaptureFixture[str]) -> None:
    render_text(
        {
            "measure": "log-likelihood",
            "total_logprob": -1.5,
            "scored_tokens": 1,
            "perplexity": None,
            "bits_per_byte": 1.25,
            "tokens": [
                {"token": "a", "id": 1, "logprob": None},
                {"token": "\n", "id": 2, "logprob": -1.5},
            ],
            "next": [{"token": "b", "id": 3, "probability": 0.5}],
        }
    )
    text = capsys.readouterr().out
    assert "-1.5000  '\\n'" in text
    assert "perplexity" not in text
    assert "0.5000       'b'" in text


def test_neighbours_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    render_neighbours({"nearest": [{"word": "queen", "similarity": 0.75}]})
    assert capsys.readouterr().out == "SIMILARITY  WORD\n0.7500      queen\n"
