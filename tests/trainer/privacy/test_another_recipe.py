"""A folder that has learned privately keeps its promise: another recipe changes nothing in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.loop.runs import run_here
from tests.trainer.privacy.test_private_runs import load_private
from trainer.errors import RecipeError
from trainer.privacy.preparation import LEDGER_FILE, PLAN_FILE
from trainer.privacy.record import read_report

_SHORT = ("run.steps=4", "checkpoint.every_steps=2", "evaluation.every_steps=0")


def test_a_mistyped_override_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "run"
    good = load_private(tmp_path, *_SHORT)
    run_here(good, output, stop_after=2)
    before = [(output / name).read_bytes() for name in (PLAN_FILE, LEDGER_FILE)]
    with pytest.raises(RecipeError, match="by another recipe"):
        run_here(load_private(tmp_path, *_SHORT, "optimizer.learning_rate=0.02"), output)
    assert [(output / name).read_bytes() for name in (PLAN_FILE, LEDGER_FILE)] == before
    assert run_here(good, output)["finished"]
    assert read_report(output / "final").claim.epsilon <= 8.0
