"""A folder that has learned privately keeps its promise: another recipe changes nothing in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.loop.runs import run_here
from tests.trainer.privacy.test_private_runs import load_private
from trainer.errors import RecipeError
from trainer.loop.claim import LOCK_FILE
from trainer.loop.session import run
from trainer.privacy.preparation import LEDGER_FILE, PLAN_FILE
from trainer.privacy.record import read_report

_SHORT = ("run.steps=4", "checkpoint.every_steps=2", "evaluation.every_steps=0")


def held(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK_FILE
    }


@pytest.mark.parametrize("word", ["optimizer.learning_rate=0.02", "privacy.enabled=false"])
def test_a_mistyped_override_is_refused_and_the_run_goes_on(tmp_path: Path, word: str) -> None:
    output = tmp_path / "run"
    good = load_private(tmp_path, *_SHORT)
    run_here(good, output, stop_after=2)
    before = held(output)
    assert {PLAN_FILE, LEDGER_FILE} <= before.keys()
    with pytest.raises(RecipeError, match="by another recipe"):
        run(load_private(tmp_path, *_SHORT, word), output, quiet=True, environ={})
    assert held(output) == before
    finished = run(good, output, quiet=True, environ={})
    assert finished is not None
    assert finished["finished"]
    assert read_report(output / "final").claim.epsilon <= 8.0
