"""`casemate doctor` tries what it reports."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from runtime.commands import doctor


def test_it_reports_every_layer_and_trial_as_json() -> None:
    result = CliRunner().invoke(doctor.command, ["--json"])
    report = json.loads(result.stdout)
    marks = {check["name"]: check["mark"] for check in report["checks"]}
    assert set(doctor.LAYERS) <= set(marks)
    assert marks["model descriptors load"] == "ok"
    assert marks["no network"] == "ok"
    assert marks["llama-cpp-python"] == "ok"
    assert report["ready"] is (result.exit_code == 0)


def test_a_missing_layer_is_marked_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = {"layers": ["session", "rlimits"], "error": None, "trials": {"no files": False}}
    monkeypatch.setattr(doctor, "_selftest", lambda: outcome)
    result = CliRunner().invoke(doctor.command, [])
    assert result.exit_code == doctor.EXIT_MISSING
    lines = {line.split()[1]: line for line in result.stdout.splitlines() if "MISSING" in line}
    assert "landlock in the kernel's lsm= list" in lines["landlock"]
    assert "seccomp" in lines
    assert "not ready" in result.stdout


def test_a_wrong_version_of_a_pinned_library_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.LIBRARIES, "llama-cpp-python", "0.0.1")
    checks = {check.name: check for check in doctor.library_checks()}
    assert checks["llama-cpp-python"].mark == "missing"
    assert "0.0.1" in checks["llama-cpp-python"].advice
