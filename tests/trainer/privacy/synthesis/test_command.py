"""`casemate privacy synthesize` and `check`, on a model that was finetuned privately."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from casemate.cli.main import cli
from security.errors import CasemateError
from tests.trainer.loop.runs import run_here
from tests.trainer.privacy.synthesis.models import private
from tests.trainer.privacy.test_private_runs import charged, load_private
from trainer.privacy.record import read_report


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["privacy", *map(str, words)])


def test_a_private_run_writes_texts_with_its_claim(tmp_path: Path) -> None:
    run_here(load_private(tmp_path), tmp_path / "run")
    spent = charged(tmp_path / "run")
    output = tmp_path / "texts.jsonl"
    words = ("synthesize", tmp_path / "run", "--count", 4, "-o", output, "--seed", 1)
    shown = run(*words, "--device", "cpu", "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    claim = read_report(tmp_path / "run" / "final").claim
    assert (found["epsilon"], found["delta"], found["unit"]) == (
        claim.epsilon,
        claim.delta,
        "record",
    )
    assert len(output.read_text().splitlines()) == found["texts"] == 4
    checked = run("check", output, "--model", tmp_path / "run", "--json")
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["report_unchanged"] is True
    # Post-processing: nothing more is spent.
    assert charged(tmp_path / "run") == spent


def test_what_is_written_is_told_in_words(decoder: Path, tmp_path: Path) -> None:
    output = tmp_path / "texts.jsonl"
    words = ("--max-tokens", 3, "--prompt", "amber birch", "--device", "cpu")
    shown = run("synthesize", decoder, "--count", 9, "-o", output, *words)
    assert shown.exit_code == 0, shown.output
    for said in ("9 texts", "epsilon 3 at delta 1e-05", "user of up to 4", "audited", "limit"):
        assert said in shown.stdout
    assert "must be public" in shown.stdout
    assert "voids the claim" in shown.stderr
    # What the user typed and what the model wrote are in the files alone.
    assert "amber" not in shown.output
    told = run("check", output)
    assert told.exit_code == 0
    assert "the model itself was not checked" in told.stdout


def test_a_check_of_changed_samples_fails(decoder: Path, tmp_path: Path) -> None:
    output = tmp_path / "texts.jsonl"
    run("synthesize", decoder, "--count", 2, "-o", output, "--device", "cpu")
    output.write_text(output.read_text().replace('"id": 2', '"id": 3'))
    assert isinstance(run("check", output).exception, CasemateError)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--count", "0"), "0 texts"),
        (("--count", "1", "--top-p", "0"), "top-p"),
        (("--count", "1", "--prompt", "a", "--prompts", __file__), "either --prompt or --prompts"),
    ],
    ids=["none", "top-p", "both"],
)
def test_bad_options_are_refused_by_name(
    decoder: Path, tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    shown = run("synthesize", decoder, "-o", tmp_path / "texts.jsonl", *words)
    assert isinstance(shown.exception, CasemateError)
    assert named in str(shown.exception)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_claim_writes_nothing(tmp_path: Path) -> None:
    folder = private(tmp_path / "decoder")
    (folder / "privacy.json").unlink()
    shown = run("synthesize", folder, "--count", 1, "-o", tmp_path / "texts.jsonl")
    assert isinstance(shown.exception, CasemateError)
    assert "was not finetuned with privacy" in str(shown.exception)
    assert not (tmp_path / "texts.jsonl").exists()
