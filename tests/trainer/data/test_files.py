from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from trainer.data import files
from trainer.data.files import DataFile, describe_file, find_files, read_lines
from trainer.errors import DataError


def test_directories_are_searched_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/two.txt", "a.jsonl", "b/one.csv", ".hidden/x.txt", "b/.y.txt", "notes.doc"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert find_files([str(tmp_path)]) == [
        DataFile(tmp_path / "a.jsonl", "jsonl"),
        DataFile(tmp_path / "b" / "one.csv", "csv"),
        DataFile(tmp_path / "b" / "two.txt", "text"),
    ]


def test_a_stated_format_goes_before_the_name(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("x")
    assert find_files([str(tmp_path / "data.txt")], "lines")[0].format == "lines"


def test_paths_that_cannot_be_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no such file"):
        find_files([str(tmp_path / "missing.txt")])
    with pytest.raises(DataError, match=r"model\.bin: the name does not tell the format"):
        find_files([str(tmp_path / "model.bin")])
    with pytest.raises(DataError, match="holds no data file"):
        find_files([str(tmp_path / "empty")])
    with pytest.raises(DataError, match="at least one file"):
        find_files([])


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\r\ntwo\u2028still two\n\nfour".encode())
    assert list(read_lines(path)) == [(1, "one"), (2, "two\u2028still two"), (3, ""), (4, "four")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"fine\nbro\0ken\n", r":2: a NUL byte at byte 4"),
        (b"fine\nfine\n\xff\n", r":3: byte 1 of the line is not UTF-8"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        list(read_lines(path))
    assert str(path) in str(error.value)
    assert error.value.__cause__ is None


def test_a_line_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 8)
    path = tmp_path / "long.txt"
    path.write_text("12345678\n")
    with pytest.raises(DataError, match=":1: a line longer than 8 bytes"):
        list(read_lines(path))
    path.write_text("1234567\n1234567\n")
    assert len(list(read_lines(path))) == 2


def test_a_source_is_described_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(b"content")
    assert describe_file(path, "train") == {
        "name": "data.txt",
        "sha256": hashlib.sha256(b"content").hexdigest(),
        "bytes": 7,
        "role": "train",
    }
    with pytest.raises(DataError, match="cannot be read"):
        describe_file(tmp_path / "missing", "train")


def test_links_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text("somebody else's")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("ours")
    (tmp_path / "data" / "b.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert [file.path.name for file in find_files([str(tmp_path / "data")], "auto")] == ["a.txt"]
