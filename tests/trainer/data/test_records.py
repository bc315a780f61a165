from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from trainer.data.files import DataFile
from trainer.data.records import read_records
from trainer.errors import DataError

SECRET = "a sentence nobody may see in a log"


def rows(
    path: Path, format: str, columns: tuple[str, ...] = ()
) -> list[tuple[int, dict[str, Any]]]:
    return [(row.line, dict(row.fields)) for row in read_records([DataFile(path, format)], columns)]


def test_tsv_with_columns_has_no_heading_and_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('"quoted" text\t1\n\nsecond\t0\n')
    assert rows(path, "tsv", ("text", "label")) == [
        (1, {"text": '"quoted" text', "label": "1"}),
        (3, {"text": "second", "label": "0"}),
    ]


def test_csv_fields_may_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('class,text\n1,"one,\ntwo"\n2,three\n')
    assert rows(path, "csv") == [
        (2, {"class": "1", "text": "one,\ntwo"}),
        (4, {"class": "2", "text": "three"}),
    ]


def test_jsonl_keeps_types(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ["a", "b"], "label": 3}\n\n{"text": "c"}\n')
    assert rows(path, "jsonl") == [(1, {"text": ["a", "b"], "label": 3}), (3, {"text": "c"})]


def test_parquet_reads_only_wanted_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["one", "two"], "label": [1, 0], "other": [0.5, 0.25]})
    pyarrow.parquet.write_table(table, path)
    found = list(read_records([DataFile(path, "parquet")], wanted=["text", "label"]))
    assert [(row.line, dict(row.fields)) for row in found] == [
        (1, {"text": "one", "label": 1}),
        (2, {"text": "two", "label": 0}),
    ]


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("tsv", f"text\tlabel\n{SECRET}\n", ":2: 1 fields where the first line has 2"),
        ("tsv", f"{SECRET}\t{SECRET}\n", ":1: the heading has a name twice"),
        ("csv", f'text,label\n"{SECRET}', "this is not CSV"),
        ("tsv", "\n\n", "blank lines only"),
        ("jsonl", f'{{"text": "{SECRET}"\n', ":1: no valid JSON at column"),
        ("jsonl", f'{{"text": "x"}}\n["{SECRET}"]\n', ":2: a JSON list, not an object"),
        (
            "jsonl",
            f'{{"text": "{SECRET} \\uD800"}}\n',
            ":1: an escape spells half a surrogate pair",
        ),
        ("jsonl", "[" * 100_000 + "\n", ":1: no valid JSON"),
        ("parquet", SECRET, "cannot be read as Parquet"),
        ("text", SECRET, "plain text has no fields"),
    ],
)
def test_bad_files_are_refused_without_their_text(
    tmp_path: Path, format: str, content: str, message: str
) -> None:
    path = tmp_path / f"bad.{format}"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        rows(path, format)
    assert SECRET not in str(error.value)
    assert SECRET not in repr(error.value.__cause__)
    assert str(path) in str(error.value)


def test_missing_and_mistyped_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": 5, "none": null}\n')
    (record,) = read_records([DataFile(path, "jsonl")])
    with pytest.raises(DataError, match=r"a\.jsonl:1: there is no field 'label'.* has text"):
        record.field("label")
    with pytest.raises(DataError, match="there is no field 'none'"):
        record.field("none")
    with pytest.raises(DataError, match="of type int, not a string"):
        record.text("text")


def test_a_record_does_not_show_its_fields() -> None:
    from trainer.data.records import Record

    assert SECRET not in repr(Record({"text": SECRET}, Path("x"), 1))


@pytest.mark.parametrize("format", ["tsv", "csv"])
def test_a_first_line_that_is_an_example_is_not_shown(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    between = "\t" if format == "tsv" else ","
    path.write_text(f"{SECRET}{between}1\nanother{between}0\n")
    (record,) = read_records([DataFile(path, format)])
    with pytest.raises(DataError, match=r"heading of 2 columns.*data\.columns=text,label") as error:
        record.text("text")
    assert SECRET not in str(error.value)


def test_only_names_that_look_like_names_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({SECRET: 1, "body": "x"}) + "\n" + json.dumps({SECRET: 1}) + "\n")
    first, second = read_records([DataFile(path, "jsonl")])
    for record, shown in ((first, "this record has body$"), (second, "no field with an ordinary")):
        with pytest.raises(DataError, match=shown) as error:
            record.field("text")
        assert SECRET not in str(error.value)


def test_whole_surrogate_pairs_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00"}\n')
    assert rows(path, "jsonl") == [(1, {"text": "\U0001f600"})]


def test_a_parquet_of_repeated_texts_is_read_a_text_at_a_time(tmp_path: Path) -> None:
    # 64 KiB once, and 200,000 references to it: 12 GiB if all of them were written out.
    rows = pyarrow.array(np.zeros(200_000, dtype=np.int32))
    column = pyarrow.DictionaryArray.from_arrays(rows, pyarrow.array(["x" * (1 << 16)]))
    path = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    del column
    tracemalloc.start()
    try:
        first = next(iter(read_records([DataFile(path, "parquet")], wanted=["text"])))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(first.fields["text"]) == 1 << 16
    assert peak + pyarrow.total_allocated_bytes() < 256 << 20


def test_parquet_text_that_is_no_utf8_is_refused_without_its_text(tmp_path: Path) -> None:
    column = pyarrow.array([b"secret \xff\xfe"]).view(pyarrow.string())
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    with pytest.raises(DataError, match="after row") as caught:
        list(read_records([DataFile(path, "parquet")]))
    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value)


def test_a_number_of_thousands_of_digits_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": ' + "9" * 5000 + "}\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        list(read_records([DataFile(path, "jsonl")]))
