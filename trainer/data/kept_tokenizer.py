"""Tokenizers trained on labelled texts, kept for the next start and for other ranks.

A resumed run must have the very tokenizer it began with. Each is kept under a name that
changes with the texts and the options that made it:

    <name>/tokenizer/        the tokenizer's files
    <name>/vocabulary.json   how the vocabulary fits

Invariant: a folder is built beside its place and renamed when whole (`kept_folder`); of
ranks that train at the same time one is kept, and all of them read that one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.data.kept_folder import building, put, require_own, sweep
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import TrainedTokenizer

_TOKENIZER_FOLDER = "tokenizer"
_REPORT_FILE = "vocabulary.json"


def kept_tokenizer(
    place: Path, train: Callable[[], TrainedTokenizer]
) -> tuple[Tokenizer, dict[str, Any]]:
    """Return the tokenizer of a place and its report, trained now if there is none.

    Args:
        place: folder of this tokenizer alone.
        train: makes it.

    Raises:
        DataError: what is kept there cannot be read, or another user may write it.
        OSError: the disk refused to keep it.
    """
    sweep(place.parent)
    if not place.is_dir():
        _make(place, train())
    require_own(place)
    report = json.loads((place / _REPORT_FILE).read_text(encoding="utf-8"))
    return Tokenizer.load(place / _TOKENIZER_FOLDER), report


def _make(place: Path, trained: TrainedTokenizer) -> None:
    with building(place) as partial:
        (partial / _TOKENIZER_FOLDER).mkdir()
        trained.tokenizer.save(partial / _TOKENIZER_FOLDER)
        content = json.dumps(trained.report.to_dict(), indent=2) + "\n"
        (partial / _REPORT_FILE).write_text(content, encoding="utf-8")
        put(partial, place)
