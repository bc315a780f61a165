"""docs/formats/synthetic.md says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from trainer.privacy.sections import Claim, ModelIdentity
from trainer.privacy.synthesis import checking, record

TEXT = (Path(__file__).resolve().parents[4] / "docs/formats/synthetic.md").read_text()


def test_every_key_is_in_the_document() -> None:
    kinds = (record.SyntheticRecord, record.Samples, record.Drawing, Claim, ModelIdentity)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    missing = [name for name in names if not re.search(rf"[`.]{name}\b", TEXT)]
    assert missing == []


def test_the_documents_figures_are_the_codes() -> None:
    assert f'"{record.FORMAT}"' in TEXT
    assert f"FILE{record.SUFFIX}" in TEXT
    assert record.MAX_RECORD_BYTES == 8 << 20
    assert checking.MAX_LINE_BYTES == 16 << 20


def test_the_statement_is_the_documents() -> None:
    assert record.STATEMENT in " ".join(TEXT.split())
