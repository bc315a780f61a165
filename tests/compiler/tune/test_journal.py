"""The journal: what a crash, a second search and damage do to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.errors import SearchError
from compiler.tune.journal import JOURNAL_NAME, Entry, Journal
from security.strictjson import JsonValue

CONTEXT: dict[str, JsonValue] = {"source_sha256": "a" * 64, "versions": {"casemate": "0.1.0"}}
KEY = "b" * 64

_WRITER = """
import sys
from pathlib import Path
from compiler.tune.journal import Entry, Journal
with Journal(Path(sys.argv[1]), {"source": "one"}) as journal:
    for number in range(10**6):
        journal.add(Entry("quality", "b" * 64, {"number": number}))
        print(number, flush=True)
"""


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    with Journal(tmp_path, CONTEXT) as journal:
        journal.add(Entry("quality", KEY, {"kl_mean": 0.25}))
    with Journal(tmp_path, CONTEXT) as journal:
        assert journal.find("quality", KEY) == [{"kl_mean": 0.25}]
        assert journal.find("speed", KEY) == []


def test_figures_of_another_source_or_version_are_not_used(tmp_path: Path) -> None:
    with Journal(tmp_path, CONTEXT) as journal:
        journal.add(Entry("quality", KEY, {"kl_mean": 0.25}))
    with Journal(tmp_path, {**CONTEXT, "source_sha256": "c" * 64}) as journal:
        assert journal.find("quality", KEY) == []
    with Journal(tmp_path, CONTEXT) as journal:
        assert journal.find("quality", KEY) == [{"kl_mean": 0.25}]


@pytest.mark.parametrize("torn", [b"{", b'{"context":"' + b"a" * 64, b'{"key":1}'])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    with Journal(tmp_path, CONTEXT) as journal:
        journal.add(Entry("quality", KEY, {"kl_mean": 0.25}))
    path = tmp_path / JOURNAL_NAME
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Journal(tmp_path, CONTEXT) as journal:
        assert journal.find("quality", KEY) == [{"kl_mean": 0.25}]
        journal.add(Entry("quality", KEY, {"kl_mean": 0.5}))
    assert path.read_bytes().startswith(whole)
    with Journal(tmp_path, CONTEXT) as journal:
        assert len(journal.find("quality", KEY)) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"{}\n",
        b"\n",
        b'{"context":"x","key":"y","kind":"quality","value":{}}\n',
        b'{"context":"' + b"a" * 64 + b'","key":"' + b"b" * 64 + b'","kind":"odd","value":{}}\n',
        b'{"context":"' + b"a" * 64 + b'","key":"' + b"b" * 64 + b'","kind":"speed","value":1}\n',
    ],
)
def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    with Journal(tmp_path, CONTEXT) as journal:
        journal.add(Entry("quality", KEY, {"kl_mean": 0.25}))
    with (tmp_path / JOURNAL_NAME).open("ab") as file:
        file.write(line)
    with pytest.raises(SearchError, match=r"line 3 is damaged.*remove"):
        Journal(tmp_path, CONTEXT)


def test_a_second_search_waits_its_turn(tmp_path: Path) -> None:
    with Journal(tmp_path, CONTEXT), pytest.raises(SearchError, match="another search"):
        Journal(tmp_path, CONTEXT)
    Journal(tmp_path, CONTEXT).__exit__(None, None, None)


def test_what_was_reported_survives_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        seen = [writer.stdout.readline() for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
    with Journal(tmp_path, {"source": "one"}) as journal:
        found = [value["number"] for value in journal.find("quality", "b" * 64)]
    assert found[: len(seen)] == list(range(20))
