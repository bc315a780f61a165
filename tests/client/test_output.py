from __future__ import annotations

import io
import json
import sys

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from casemate.cli.output import counted, emit, fields, json_option, progress, table
from casemate.cli.visible import visible


@given(st.text(max_size=40))
def test_what_is_shown_on_a_terminal_gives_it_no_orders(text: str) -> None:
    shown = visible(text)
    assert not any(ord(char) < 32 and char not in "\t\n" for char in shown)
    assert "\x1b" not in shown
    assert "\x9b" not in shown


def test_plain_text_is_left_alone() -> None:
    assert visible("Zwölf Boote,\n\tさん 🚢") == "Zwölf Boote,\n\tさん 🚢"
    assert visible("\x1b]0;title\x07\u202eevil") == r"\x1b]0;title\x07\u202eevil"


@click.command()
@json_option
def sample(as_json: bool) -> None:
    emit(as_json, {"name": "x", "many": ["a", "b"], "none": None})


def test_json_is_one_document_and_text_is_aligned() -> None:
    assert json.loads(CliRunner().invoke(sample, ["--json"]).stdout)["many"] == ["a", "b"]
    assert CliRunner().invoke(sample).stdout == "name  x\nmany  a, b\nnone  -\n"


def test_one_is_not_many() -> None:
    assert [counted(n, "entry", "entries") for n in (0, 1, 2000)] == [
        "0 entries",
        "1 entry",
        "2,000 entries",
    ]


def test_a_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    table(["name", "n"], [["long name", "1"], ["x", "22"]])
    assert capsys.readouterr().out == "NAME       N\nlong name  1\nx          22\n"
    table(["name"], [])
    fields({})
    assert capsys.readouterr().out == "NAME\n"


def test_progress_writes_nothing_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("working") as relabel:
        relabel("still working")
    assert stream.getvalue() == ""
