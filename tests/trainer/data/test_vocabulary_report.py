"""The figures of a vocabulary, against texts small enough to count by hand."""

from __future__ import annotations

import json

import pytest

from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.data.vocabulary_report import measure_vocabulary
from trainer.recipe.schema import TokenizerOptions


def words(*known: str) -> Tokenizer:
    options = TokenizerOptions(kind="word", vocabulary_size=16, minimum_count=1)
    text = " ".join([*known, *(f"filler{number}" for number in range(16 - 2 - len(known)))])
    return train_tokenizer(options, [text], "recurrent").tokenizer


def test_words_that_are_unknown() -> None:
    report = measure_vocabulary(
        words("anchor", "barley"),
        ["anchor barley", "anchor Secret"],
        wanted=20,
        measured_on="validation",
    )

    assert (report.words, report.tokens, report.used) == (4, 4, 3)
    assert report.out_of_vocabulary_rate == 0.25
    assert report.pieces_per_word == 1
    assert report.bytes_per_token == len("anchor barleyanchor Secret") / 4
    assert (report.wanted, report.reached) == (20, 16)
    assert [warning.split()[0] for warning in report.warnings] == ["20", "25.0%"]
    assert "Secret" not in json.dumps(report.to_dict())


def test_pieces_of_wordpiece() -> None:
    # Nothing occurs nine times, so the characters are all there is to spell with.
    options = TokenizerOptions(kind="wordpiece", vocabulary_size=21, minimum_count=9)
    tokenizer = train_tokenizer(options, ["abcdefgh hgfedcba"], "encoder").tokenizer
    report = measure_vocabulary(tokenizer, ["abc ab xyz"], wanted=21, measured_on="train")

    assert (report.words, report.tokens) == (3, 6)
    assert report.pieces_per_word == 2
    assert report.out_of_vocabulary_rate == pytest.approx(1 / 3)


def test_bytes_are_counted_in_utf8() -> None:
    options = TokenizerOptions(kind="character")
    tokenizer = train_tokenizer(options, ["é字a"], "decoder").tokenizer
    report = measure_vocabulary(tokenizer, ["é字a"], wanted=5, measured_on="train")

    assert report.bytes_per_token == 2
    assert report.warnings == ()
