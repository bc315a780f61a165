"""What a device chose cannot steer the terminal, the table or the log of an operator."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from casemate.cli import audit
from casemate.cli.output import emit, fields, table
from casemate.cli.visible import json_text, one_line, visible
from runtime.logs import JsonFormatter, PlainFormatter
from security.audit.entry import AuditEntry
from security.audit.log import AuditLog
from tests.audit.support import SIGNER, VKEYS

HOSTILE = "1\x1b]0;pwn\x07\x9b2J\u202e\u2066\u2028\x7f\r\n7  forged  row"
HIDDEN = frozenset("\x1b\x07\x9b\u202e\u2066\u2028\x7f\r")
NOW_MS = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)


@given(st.text(max_size=40))
def test_one_line_is_one_line_without_orders(text: str) -> None:
    assert not set(one_line(text)) & (HIDDEN | {"\n", "\t"})
    assert not set(visible(text)) & HIDDEN


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=20), max_size=3))
def test_json_stays_the_same_value(value: dict[str, str]) -> None:
    assert json.loads(json_text(value)) == value
    assert json.loads(json_text(value, indent=2)) == value
    assert not set(json_text(value)) & HIDDEN


def test_json_of_plain_text_stays_readable() -> None:
    assert json_text({"a": "Zwölf さん 🚢", "b": "\x9b\u202e\U000e0041"}) == (
        '{"a": "Zwölf さん 🚢", "b": "\\u009b\\u202e\\udb40\\udc41"}'
    )


def test_tables_fields_and_documents_are_safe(capsys: pytest.CaptureFixture[str]) -> None:
    table(["name"], [[HOSTILE]])
    fields({"name": HOSTILE})
    emit(True, {"name": HOSTILE})
    out = capsys.readouterr().out
    assert not set(out) & HIDDEN
    assert "\n7  forged" not in out


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["rows", "json"])
def test_the_audit_log_is_shown_row_by_row(options: list[str], tmp_path: Path) -> None:
    entry = AuditEntry(
        kind="denied",
        time_ms=NOW_MS,
        principal=HOSTILE,
        model=HOSTILE,
        version=HOSTILE,
        status=HOSTILE,
        detail=HOSTILE,
        verdicts=(HOSTILE,),
    )
    (tmp_path / "log.vkeys").write_text(VKEYS)
    with AuditLog.open(tmp_path / "audit", SIGNER) as log:
        log.append(entry.encode()).result(30)
    arguments = ["show", str(tmp_path / "audit"), "--vkeys", str(tmp_path / "log.vkeys")]
    done = CliRunner().invoke(audit.command, [*arguments, *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert not set(done.stdout) & HIDDEN
    assert len(done.stdout.splitlines()) == (1 if options else 2)
    assert "forged" in done.stdout
    if options:
        assert json.loads(done.stdout)["model"] == HOSTILE


FORMATTERS = [JsonFormatter(), PlainFormatter()]


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["json", "plain"])
def test_a_log_line_is_one_line_without_orders(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("casemate.x", logging.INFO, "f", 1, "at %s", (HOSTILE,), None)
    record.model, record.detail = HOSTILE, HOSTILE
    line = formatter.format(record)
    assert not set(line) & (HIDDEN | {"\n"})
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["model"] == HOSTILE


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["json", "plain"])
def test_what_asyncio_logs_of_a_failure_is_its_type_and_place(
    formatter: logging.Formatter, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ValueError("secret text")

    def call_back(text: str) -> None:
        raise ValueError(text)

    async def use() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(call_back, "secret text")
        task = loop.create_task(fail())
        await asyncio.wait([task])
        del task  # its destructor tells the loop that nobody asked for the exception
        await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR, logger="asyncio"):
        asyncio.run(use())
    lines = [formatter.format(record) for record in caplog.records]
    assert any("secret text" in record.getMessage() for record in caplog.records)
    assert len(lines) == 2
    assert not any("secret" in line for line in lines)
    assert all("ValueError at " in line for line in lines)
    assert any("Task exception was never retrieved" in line for line in lines)
