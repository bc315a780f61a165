"""Documents from files of every format, whole and split for validation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.trainer.data.texts import prose
from trainer.data import sources
from trainer.data.files import find_files
from trainer.data.sources import Document, Part, documents_of
from trainer.errors import DataError
from trainer.recipe.schema import DataOptions


def read(paths: Sequence[Path], part: Part = sources.WHOLE, **options: Any) -> Iterator[Document]:
    given = DataOptions(**options)
    files = find_files([str(path) for path in paths], given.format)
    return documents_of(files, given, part)


def texts(paths: Sequence[Path], part: Part = sources.WHOLE, **options: Any) -> list[str]:
    return [document.text for document in read(paths, part, **options)]


def write_jsonl(path: Path, documents: Sequence[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in documents))
    return path


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(prose(40_000))

    documents = list(read([path]))

    assert len(documents) > 1
    assert [document.begins for document in documents] == [True] + [False] * (len(documents) - 1)
    assert "".join(document.text for document in documents) == path.read_text()
    line = 1
    for document in documents:
        assert document.line == line
        line += document.text.count("\n")


def test_lines_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("one\n\n  \ntwo\r\nthree")

    documents = list(read([path], format="lines"))

    assert [(document.line, document.text) for document in documents] == [
        (1, "one"),
        (4, "two"),
        (5, "three"),
    ]


def test_records_of_every_format_are_documents(tmp_path: Path) -> None:
    words = ["alpha", "beta", "gamma"]
    write_jsonl(tmp_path / "a.jsonl", words, "body")
    table = pyarrow.table({"id": [1, 2, 3], "body": words})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    (tmp_path / "c.tsv").write_text("id\tbody\n" + "".join(f"1\t{word}\n" for word in words))
    (tmp_path / "d.csv").write_text("id,body\n" + "".join(f'1,"{word}"\n' for word in words))

    assert texts([tmp_path], text_field="body") == words * 4


def test_directories_are_read_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b/two.txt", "a/one.txt", "c.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")

    assert texts([tmp_path]) == ["a/one.txt", "b/two.txt", "c.txt"]


def test_missing_field(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["x"])
    path.write_text(path.read_text() + '{"title": "Secret"}\n')

    with pytest.raises(DataError, match=r"a\.jsonl:2: there is no field 'text'") as caught:
        texts([path])
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize("content", ["\n\n", " \n", '{"text": " "}\n'])
def test_a_file_of_records_without_text(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)

    with pytest.raises(DataError, match=r"a\.jsonl: there is no text"):
        texts([path])


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "Secret \\ud83d"}\n')

    with pytest.raises(DataError, match=r"a\.jsonl:2: .* half a surrogate pair") as caught:
        texts([path])
    assert "Secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_bad_utf8_in_lines(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"one\ntwo\ncaf\xe9\n")

    with pytest.raises(DataError, match=r"notes\.txt:3: byte 4"):
        texts([path], format="lines")


def test_no_text_in_a_repr(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("Secret words")
    (document,) = read([path])

    assert "Secret" not in repr(document)
    assert isinstance(document, Document)


def test_a_text_file_is_held_out_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(prose(3000))
    whole = path.read_text()

    train = "".join(texts([path], Part(0.1)))
    held_out = "".join(texts([path], Part(0.1, held_out=True)))

    assert train + held_out == whole
    assert len(train) == int(len(whole) * 0.9)


def test_a_few_text_files_give_the_end_of_each(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name * 100)

    assert texts([tmp_path], Part(0.25)) == [name * 75 for name in "abc"]
    assert texts([tmp_path], Part(0.25, held_out=True)) == [name * 25 for name in "abc"]


def test_many_text_files_are_held_out_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MANY_FILES", 50)
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")

    train = texts([tmp_path], Part(0.3))
    held_out = texts([tmp_path], Part(0.3, held_out=True))

    assert sorted(train + held_out) == sorted(f"text {number}" for number in range(50))
    assert 5 <= len(held_out) <= 25


def test_records_are_held_out_by_their_text(tmp_path: Path) -> None:
    documents = [f"document {number % 500}" for number in range(1000)]
    path = write_jsonl(tmp_path / "a.jsonl", documents)

    train = texts([path], Part(0.1))
    held_out = texts([path], Part(0.1, held_out=True))

    assert sorted(train + held_out) == sorted(documents)
    assert not set(train) & set(held_out)
    assert 60 <= len(held_out) <= 140
