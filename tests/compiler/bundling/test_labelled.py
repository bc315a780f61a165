"""Labelled texts: what is read, and what is refused without telling any of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.bundling.labelled import label_numbers, read_labelled, texts_of
from compiler.errors import QuantizationError, SourceError

NAMES = ("negative", "positive")
ROWS = [(f"zebra {number}", NAMES[number % 2]) for number in range(10)]
CLASSES = tuple(number % 2 for number in range(10))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "".join(f"{text}\t{label}\n" for text, label in ROWS)),
        ("b.tsv", "label\tsentence\r\n" + "".join(f"{label}\t{text}\r\n" for text, label in ROWS)),
        ("c.csv", "text,label\n" + "".join(f'"{text}","{label}"\n' for text, label in ROWS)),
        (
            "d.jsonl",
            "".join(json.dumps({"text": a, "label": NAMES.index(b)}) + "\n" for a, b in ROWS),
        ),
    ],
)
def test_every_kind_of_file_says_the_same(tmp_path: Path, name: str, text: str) -> None:
    texts = read_labelled(written(tmp_path / name, text))
    assert texts.lines == tuple(text for text, _ in ROWS)
    assert label_numbers(texts, NAMES) == CLASSES
    assert "zebra" not in repr(texts)


def test_a_text_is_one_line_whatever_its_file_quotes(tmp_path: Path) -> None:
    rows = "".join(f'"one\ntwo {number}",positive\n' for number in range(8))
    texts = read_labelled(written(tmp_path / "a.csv", rows))
    assert texts.lines[3] == "one two 3"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "zebra\tpositive\n", "come as .tsv, .csv or .jsonl"),
        ("a.tsv", "zebra\tpositive\nzebra\n", "a.tsv:2: needs a text and its label"),
        ("a.tsv", "zebra\t \n", "a.tsv:1: needs a text and its label"),
        ("a.csv", '"zebra,positive\n', "is not CSV"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: is no JSON object"),
        ("a.jsonl", '{"text": "zebra", "label": true}\n', "a.jsonl:1: needs"),
        (
            "a.jsonl",
            '{"text": "zebra \\ud83d", "label": "a"}\n',
            "a.jsonl:1: holds what is no Unic",
        ),
        ("a.tsv", "zebra\tpositive\n", "is too short: 1 labelled texts"),
    ],
)
def test_what_is_no_labelled_text_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises((SourceError, QuantizationError), match=message) as caught:
        read_labelled(written(tmp_path / name, text))
    assert "zebra" not in str(caught.value)


def test_labels_must_be_the_models(tmp_path: Path) -> None:
    rows = "".join(f"zebra {number}\tquagga\n" for number in range(8))
    texts = read_labelled(written(tmp_path / "a.tsv", rows))
    with pytest.raises(SourceError, match=r"text 1 is none of the model's \(negative") as caught:
        label_numbers(texts, NAMES)
    assert "quagga" not in str(caught.value)
    with pytest.raises(SourceError, match="no classifier"):
        label_numbers(texts, ())


def test_one_kind_of_texts_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not both"):
        texts_of(tmp_path / "a.txt", tmp_path / "a.tsv")
    assert label_numbers(texts_of(None, None), NAMES) is None
