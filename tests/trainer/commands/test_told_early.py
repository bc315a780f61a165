"""What is cheap to refuse is refused before seconds of imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.loop.runs import ROOT

# Types a command, and says what it answered and whether torch was imported for that.
_TYPED = """
import json, sys
from casemate.cli.main import cli
try:
    cli(json.loads(sys.argv[1]), standalone_mode=False)
    said = ""
except Exception as problem:
    said = str(problem)
print(json.dumps([said, "torch" in sys.modules]))
"""


def answered(*words: str | Path) -> tuple[str, bool]:
    done = subprocess.run(
        [sys.executable, "-c", _TYPED, json.dumps([str(word) for word in words])],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said, heavy = json.loads(done.stdout.splitlines()[-1])
    return said, heavy


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What looks like a model to who does not open it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def test_options_that_do_not_go_together(model: Path) -> None:
    said, heavy = answered("privacy", "audit", model)
    assert "canaries.json" in said
    assert not heavy
    said, heavy = answered("privacy", "audit", model, "--members", model, "--record")
    assert "both or neither" in said
    assert not heavy
    said, heavy = answered("privacy", "compare", model, "--data", model)
    assert "give --twin" in said
    assert not heavy


def test_files_and_ledgers_that_are_missing(model: Path, tmp_path: Path) -> None:
    recipe = (
        *("text-private", f"model.source={model}", "data.train=none.jsonl"),
        f"privacy.ledger={tmp_path / 'none.ledger'}",
    )
    said, heavy = answered("privacy", "plan", *recipe)
    assert "data.train: there is no file" in said
    assert not heavy
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    there = (*recipe, f"data.train={tmp_path / 'texts.jsonl'}")
    said, heavy = answered("finetune", *there, "--private", "-o", tmp_path / "run")
    assert "there is no ledger at" in said
    assert "Only for data that no private run has ever used" in said
    assert not heavy
    assert not (tmp_path / "run").exists()
    unprotected = "objective.softmax=chunked"
    said, heavy = answered("finetune", *there, unprotected, "--private", "-o", tmp_path / "run")
    assert "objective.softmax" in said
    assert not heavy
