"""compilation.json, its page, its picture and its statement."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import ReportError
from compiler.report.page import render_page, write_page
from compiler.report.picture import picture, write_picture
from compiler.report.record import encode_record, parse_record
from compiler.report.statement import COMPILATION_TYPE, statement
from compiler.tune.journal import KINDS
from compiler.tune.promise import CLAUSES, QUALITIES
from security.strictjson import canonical
from tests.compiler.report.records import record
from tests.pages.parsed import Parsed

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "formats" / "compilation.md"


@pytest.mark.parametrize("predicted", [False, True])
def test_a_record_is_read_back(predicted: bool) -> None:
    made = record(predicted=predicted)
    assert parse_record(encode_record(made)) == made
    assert made.predicted is predicted


def changed(path: str, value: Any) -> bytes:
    data = json.loads(encode_record(record()))
    *places, last = path.split(".")
    at: Any = data
    for place in places:
        at = at[int(place) if place.isdigit() else place]
    if value is None and last not in ("dropped", "sha256"):
        del at[last]
    else:
        at[last] = value
    return canonical(data) + b"\n"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "casemate.compilation/2", "format"),
        ("seconds", None, "seconds: missing"),
        ("extra", 1, "extra: unknown field"),
        ("seconds", -1, "seconds: must be in"),
        ("predicted", True, "predicted: contradicts"),
        ("chosen", "0" * 64, "chosen: names a candidate that is not listed"),
        ("front", ["0" * 64], "front: names a candidate"),
        ("candidates.1.label", 7, "label"),
        ("candidates.1.plan", {"output": "Q2_K"}, "digest: is not that of the plan"),
        ("candidates.1.settings", {"threads": 64}, "digest: is not that of the plan"),
        ("candidates.2.quality.kl_mean", 0.2, "chosen: breaks the promise"),
        ("candidates.2.quick", True, "chosen: breaks the promise"),
        ("candidates.1.quick", "no", "quick"),
        ("candidates.1.quality.top1", 1.5, "top1: must be in"),
        ("candidates.1.rates.decode@1.rate.count", 0, "count: must be an integer from 1"),
        ("candidates.1.rates.decode@1.rate.low", 1e9, "median: must be in"),
        ("target.cores", 0, "cores: must be from 1"),
        ("promise.max_kl", "low", "max_kl: must be a number"),
        ("load_rates", ["decode@9"], "load_rates: names a rate"),
    ],
)
def test_a_record_that_breaks_the_format_names_the_field(
    path: str, value: Any, message: str
) -> None:
    with pytest.raises(ReportError, match=re.escape(message)):
        parse_record(changed(path, value))


def test_what_was_seen_on_a_part_of_the_texts_says_so() -> None:
    partly = [one["quick"] for one in json.loads(encode_record(record()))["candidates"]]
    assert partly == [False] * 4 + [True]


def test_the_document_has_the_kinds_of_lines_of_a_journal() -> None:
    (said,) = re.findall(r"`kind` \(([^)]*)\)", " ".join(DOCUMENT.read_text().split()))
    assert tuple(re.findall(r"`(\w+)`", said)) == KINDS


def test_the_page_says_how_much_text_was_judged_on() -> None:
    made = replace(record(), context={"window": 512, "windows": 6})
    assert "1,536 tokens, in 6 windows of 512" in render_page(made)


def test_other_bytes_of_the_same_content_are_refused() -> None:
    data = encode_record(record())
    for other in (data[:-1], data + b"\n", json.dumps(json.loads(data)).encode() + b"\n"):
        with pytest.raises(ReportError, match="canonical"):
            parse_record(other)


def test_the_page_shows_what_was_chosen_and_what_was_refused(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", record())
    text = (tmp_path / "page.html").read_text()
    Parsed(text)
    for shown in (
        "output IQ4_NL",
        "casemate compile gemma.gguf --max-kl 0.07",
        "ruined, seen on a part of the texts",
        "layers &lt;Q4_0&gt;",
        "1.49×",
        "blk.0.attn_v.weight",
        "timed less often",
    ):
        assert shown in text, shown
    assert "<script" not in text
    assert "http" not in text.replace("Content-Security-Policy", "").replace("http-equiv", "")
    assert "predicted" not in text


def test_predicted_speeds_say_so_in_page_and_picture() -> None:
    predicted = record(predicted=True)
    page = render_page(predicted)
    assert "speeds predicted" in page
    assert "never measured" in page
    assert ">measured<" not in page
    assert "(predicted)" in picture(predicted)
    assert "(measured)" not in picture(predicted)


def test_the_picture_stands_alone(tmp_path: Path) -> None:
    write_picture(tmp_path / "front.svg", record())
    root = ET.fromstring((tmp_path / "front.svg").read_text())
    spaces = {"svg": "http://www.w3.org/2000/svg"}
    assert len(root.findall(".//svg:circle", spaces)) == 4 + 1
    assert root.find(".//svg:polyline", spaces) is not None
    title = root.findtext("svg:title", namespaces=spaces)
    assert title is not None
    assert "chosen is output IQ4_NL" in title


def test_the_statement_is_about_the_bundles_models() -> None:
    made = record()
    subjects = {"variants/default/model.gguf": made.entry(made.chosen).sha256 or ""}
    said = json.loads(statement(made, subjects))
    assert said["predicateType"] == COMPILATION_TYPE
    assert said["subject"][0]["digest"]["sha256"] == made.entry(made.chosen).sha256
    assert said["predicate"]["record"] == json.loads(encode_record(made))
    with pytest.raises(ReportError, match="not among the bundle's models"):
        statement(made, {"variants/default/model.gguf": "e" * 64})


def test_the_document_lists_the_fields_and_the_qualities() -> None:
    text = DOCUMENT.read_text()
    data = json.loads(encode_record(record()))
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z0-9_-]+)`", row)}
    assert set(data) <= named
    assert set(data["candidates"][0]) <= named
    for name, promise in QUALITIES.items():
        bounds = [getattr(promise, one) for one in _columns(text)]
        assert f"| `{name}` | " + " | ".join(f"{one:g}" for one in bounds) + " |" in text


def _columns(text: str) -> list[str]:
    heading = next(line for line in text.splitlines() if line.startswith("| quality |"))
    columns = re.findall(r"`([a-z_0-9]+)`", heading)
    assert set(columns) <= {clause.name for clause in CLAUSES}
    return columns
