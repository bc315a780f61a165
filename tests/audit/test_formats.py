"""The released formats stay readable, and the specifications say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from security.audit import receipt, segment
from security.audit.config import ENTRY_MAX_BYTES
from security.audit.entry import _DEFAULTS, COMPLETED_MAX_BYTES, FORMAT, KINDS, parse_entry
from security.audit.receipt import check_answer, check_request, verify_receipt

VECTORS = Path(__file__).parent / "vectors"
DOCS = Path(__file__).parents[2] / "docs" / "formats"


def test_version_1_receipt_verifies_for_ever() -> None:
    data = (VECTORS / "version-1.receipt").read_bytes()
    found = verify_receipt(data, (VECTORS / "version-1.vkeys").read_text())
    assert found.index == 5
    assert found.entry.model == "gemma-3-270m"
    assert check_request(found, [b"How many windows has a casemate?"])
    assert check_answer(found, [b"Few, and each of them is watched."])


def test_the_specification_of_the_log_matches() -> None:
    text = (DOCS / "audit-log.md").read_text()
    example = re.search(r"```json\n(.*?)\n```", text, re.DOTALL)
    assert example is not None
    assert parse_entry(example.group(1).encode()).kind == "completed"
    for name in (*_DEFAULTS, *KINDS, FORMAT):
        assert f"`{name}`" in text
    assert f"{ENTRY_MAX_BYTES:,} bytes" in text
    assert f"{COMPLETED_MAX_BYTES:,} bytes" in text
    for magic in (segment._MAGIC, segment._BATCH_MAGIC):
        assert magic.hex(" ") in text


def test_the_specification_of_receipts_matches() -> None:
    text = (DOCS / "receipt.md").read_text()
    fields = set(json.loads((VECTORS / "version-1.receipt").read_bytes()))
    for name in fields:
        assert f"| `{name}` |" in text
    assert f"{receipt.RECEIPT_MAX_BYTES:,} bytes" in text
