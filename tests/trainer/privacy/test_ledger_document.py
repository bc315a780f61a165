"""docs/formats/privacy-ledger.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.privacy import ledger_file, ledger_lines, ledger_names, ledger_state
from trainer.privacy.event import SAMPLERS, Event
from trainer.privacy.ledger_state import read_state

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs/formats/privacy-ledger.md").read_text()


def test_the_example_is_a_ledger() -> None:
    example = DOCUMENT.split("```jsonl\n")[1].split("```")[0]
    state, tail = read_state(example.encode(), "example")
    assert tail.fragments == 0
    first, second = state.view().releases
    assert (first.charged, second.charged, second.replayed) == (2, 1, 1)
    assert second.planned == first.planned - 1


def test_its_numbers_are_the_codes() -> None:
    assert f"`{ledger_lines.LEDGER_FORMAT}`" in DOCUMENT
    assert f"at most {ledger_lines.MAX_LINE_BYTES:,} bytes" in DOCUMENT
    assert f"at most\n  {ledger_file.MAX_LEDGER_BYTES >> 20} MiB" in DOCUMENT
    assert f"{ledger_state.MAX_TAIL_BYTES >> 10} KiB" in DOCUMENT


def test_every_key_is_in_it() -> None:
    event = Event(units=1, sampling_probability=1.0, noise_multiplier=1.0, steps=1)
    for key in (
        *event.to_dict(),
        *SAMPLERS,
        *ledger_names.UNITS,
        "user_field",
        "fragments",
        "sha256",
    ):
        assert f"`{key}`" in DOCUMENT
    table = DOCUMENT.split("| kind |")[1].split("| field |")[0]
    kinds = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert kinds == ["opened", "run", "charge", "tuning", "torn"]
