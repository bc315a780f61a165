"""Parity of exports: a case for all that the trainer can train, and a case that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import onnx_parity
from tests.trainer.models.networks import KINDS
from trainer.recipe.schema import FAMILIES, FITTING


def test_every_family_and_objective_has_a_case() -> None:
    assert set(FITTING) == set(FAMILIES)
    assert onnx_parity.uncovered() == []


def test_the_tests_of_the_export_cover_them_too() -> None:
    covered = {(family, objective) for family, objective, *_ in KINDS.values()}
    # Word embeddings are no network; their graph is tested by itself.
    known = {(f, o) for f, kinds in FITTING.items() for o in kinds if f != "word-embeddings"}
    assert known <= covered


def test_what_is_new_and_has_no_case_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FITTING, "state-space", ("next-token",))
    with pytest.raises(SystemExit, match="state-space: next-token"):
        onnx_parity.main([])


def test_a_case_keeps_the_promise(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASEMATE_SHARED", str(shared))
    result = onnx_parity.main(["--only", "LSTM, adaptive softmax", "--passages", "4"])
    (row,) = result["rows"]
    assert 0 < row["max_difference"] <= onnx_parity.PROMISE
    assert row["largest_output"] > 1
