"""Progress in a log: a plain line now and then, where a command asks for it."""

from __future__ import annotations

import time

import pytest

from casemate.cli import output


def test_a_log_gets_the_label_of_the_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "PROGRESS_AFTER_SECONDS", 0.01)
    monkeypatch.setattr(output, "_LINE_SECONDS", 0.01)
    found = ""
    with output.progress("reading", lines=True) as relabel:
        relabel("accounting")
        deadline = time.monotonic() + 30
        while found.count("accounting (0 s)\n") < 2 and time.monotonic() < deadline:
            found += capsys.readouterr().err
    assert "accounting" in found
    assert "\x1b" not in found


def test_without_being_asked_nothing_is_written_to_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "PROGRESS_AFTER_SECONDS", 0.0)
    with output.progress("reading"):
        pass
    assert capsys.readouterr().err == ""
