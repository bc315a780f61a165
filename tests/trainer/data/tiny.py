"""Small tokenizers and files for the tests of labelled data."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.recipe.schema import TokenizerOptions

TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "a warm and funny film. it moves! does it last? yes",
    "dull, flat and far too long",
    "unbelievably good acting saves a weak story",
)


@functools.cache
def tokenizer(kind: str = "wordpiece", family: str = "encoder") -> Tokenizer:
    """A tokenizer of a hundred pieces or so (byte-level BPE has its 256 bytes)."""
    smallest = {"encoder": 270, "decoder": 270, "seq2seq": 380}[family]
    size = {"bpe": smallest, "word": 48, "wordpiece": 64, "character": 64}[kind]
    if family == "seq2seq" and kind != "bpe":
        size += 100
    options = TokenizerOptions(kind=kind, vocabulary_size=size, minimum_count=1)
    return train_tokenizer(options, list(TEXTS) * 3, family).tokenizer


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_tsv(path: Path, rows: Sequence[tuple[str, ...]]) -> str:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
