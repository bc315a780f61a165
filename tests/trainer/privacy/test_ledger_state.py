"""What a ledger's bytes may be: every edit shows, every torn end counts, nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.strictjson import canonical
from trainer.privacy.errors import LedgerError
from trainer.privacy.event import Event
from trainer.privacy.ledger import Budget, Ledger, read_ledger
from trainer.privacy.ledger_lines import (
    GENESIS,
    Announced,
    Charged,
    Line,
    Opened,
    Torn,
    decode,
    encode,
)
from trainer.privacy.ledger_state import LedgerView, read_state

EVENT = Event(units=100, sampling_probability=0.1, noise_multiplier=1.5, steps=4)
LINES: tuple[Line, ...] = (
    Opened(None, 1),
    Announced("run-1", "tickets", "record", EVENT, 2),
    Charged("run-1", 0, 3),
    Charged("run-1", 1, 4),
    Announced("run-2", "tickets", "record", EVENT.of(2), 5),
    Charged("run-2", 0, 6),
)


def chain(*lines: Line) -> list[bytes]:
    """Lines that follow one another, line ends included."""
    encoded, link = [], GENESIS
    for line in lines:
        data, link = encode(line, link)
        encoded.append(data)
    return encoded


def read(data: bytes) -> LedgerView:
    state, tail = read_state(data, "ledger")
    return state.view(tail.fragments)


def count(view: LedgerView) -> int:
    return sum(release.charged for release in view.releases)


WHOLE = b"".join(chain(*LINES))


def test_what_was_written_is_read() -> None:
    view = read(WHOLE)
    assert [(each.run_id, each.charged) for each in view.releases] == [("run-1", 2), ("run-2", 1)]
    assert view.head.lines == len(LINES)
    assert view.events("tickets") == (EVENT.of(3),)


@settings(max_examples=60, deadline=None)
@given(
    run=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    dataset=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=200),
    unit=st.sampled_from(["record", "user"]),
    units=st.integers(1, 10**9),
    q=st.floats(1e-12, 1.0),
    sigma=st.floats(0, 1e6),
    steps=st.integers(1, 10**6),
    cap=st.none() | st.integers(1, 10**9),
)
def test_any_announcement_comes_back_as_it_was(
    run: str, dataset: str, unit: str, units: int, q: float, sigma: float, steps: int, cap: Any
) -> None:
    event = Event(units=units, sampling_probability=q, noise_multiplier=sigma, steps=steps, cap=cap)
    line = Announced(run, dataset, unit, event, 7, dataset if unit == "user" else "")
    data, link = encode(line, GENESIS)
    assert decode(data[:-1], GENESIS) == (line, link)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(WHOLE) - 2), bit=st.integers(0, 7))
def test_every_flipped_bit_shows(place: int, bit: int) -> None:
    """But for the last line end, which a crash may leave out."""
    data = bytearray(WHOLE)
    data[place] ^= 1 << bit
    with pytest.raises(LedgerError, match=r"^ledger"):
        read(bytes(data))


@settings(max_examples=100, deadline=None)
@given(first=st.integers(0, len(LINES) - 2), data=st.data())
def test_lines_left_out_doubled_or_moved_show(first: int, data) -> None:
    lines = chain(*LINES)
    second = data.draw(st.integers(first + 1, len(LINES) - 1))
    swapped = list(lines)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    left_out = lines[:first] + lines[first + 1 :]
    doubled = lines[: second + 1] + lines[second:]
    inserted = [*lines[:second], lines[first], *lines[second:]]
    for changed in (swapped, left_out, doubled, inserted):
        with pytest.raises(LedgerError):
            read(b"".join(changed))


def test_a_ledger_cut_anywhere_never_counts_less_than_its_whole_lines() -> None:
    for length in range(len(WHOLE) + 1):
        data = WHOLE[:length]
        whole_lines = data.count(b"\n")
        if whole_lines == 0:
            with pytest.raises(LedgerError, match="no whole first line"):
                read(data)
            continue
        charges = sum(isinstance(line, Charged) for line in LINES[:whole_lines])
        # A torn piece after an announcement counts as a charge, whatever it was to be.
        torn = not data.endswith(b"\n") and whole_lines > 1
        # A whole line that only lacks its end is what it says.
        announcement = data == b"".join(chain(*LINES[:5]))[:-1]
        assert count(read(data)) == charges + (torn and not announcement), length


@pytest.mark.parametrize("length", range(len(chain(*LINES[:2])[0]) + 10, len(WHOLE), 7))
def test_a_torn_end_is_charged_for_good_when_it_is_opened(length: int, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(WHOLE[:length])
    before = count(read_ledger(path))
    with Ledger.open(path) as ledger:
        assert count(ledger.view()) == before
    # Nothing was taken away, and it is whole again.
    assert path.read_bytes().startswith(WHOLE[:length])
    assert count(read_ledger(path)) == before
    with Ledger.open(path) as ledger:
        ledger.begin("run-3", "tickets", EVENT)
        ledger.charge("run-3", 0)
    assert count(read_ledger(path)) == before + 1


def test_mending_that_is_torn_itself_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    cut = WHOLE[: len(b"".join(chain(*LINES[:3]))) + 20]
    path.write_bytes(cut)
    Ledger.open(path).close()
    mended = path.read_bytes()
    for length in range(len(cut) + 1, len(mended)):
        path.write_bytes(mended[:length])
        with Ledger.open(path) as ledger:
            # One piece of a charge, and one of the mending unless that was whole.
            charges = 1 + 1 + (length < len(mended) - 1)
            assert count(ledger.view()) == charges
            assert ledger.view().releases[0].torn == charges - 1
        assert count(read_ledger(path)) == charges


@pytest.mark.parametrize("fill", [b"\0" * 30, b"\xff" * 30, b"\t", b"{}", b'{"kind":"charge"'])
def test_whatever_a_crash_leaves_counts(fill: bytes) -> None:
    assert count(read(WHOLE + fill)) == 3 + fill.count(b"\t") + 1


def test_what_no_crash_leaves_is_damage() -> None:
    with pytest.raises(LedgerError, match="no crash leaves"):
        read(WHOLE + b"x" * 100_000)
    # With a line end it was whole once, or somebody else's.
    for fill in (b"\n", b"{}\n", b"\0\n", b"x\ty\n"):
        with pytest.raises(LedgerError, match=r"ledger:7 was edited or damaged"):
            read(WHOLE + fill)


def test_an_error_names_the_line_and_no_content() -> None:
    lines = chain(*LINES)
    lines[2] = lines[2].replace(b'"step":0', b'"step":7')
    with pytest.raises(LedgerError, match=r"ledger:3 was edited or damaged: its link") as caught:
        read(b"".join(lines))
    assert "step" not in str(caught.value)


def test_a_torn_line_cannot_hide_an_edit() -> None:
    """It tells what stands before it, and only on its own line."""
    lines = chain(*LINES[:3])
    previous = json.loads(lines[-1])["link"]
    torn, _ = encode(Torn(1, "0" * 64, 9), previous)
    for hidden in (b"", lines[2][:-1] + b"\t", b"abc\t", b"abc\n"):
        with pytest.raises(LedgerError):
            read(b"".join(lines) + hidden + torn)


Change = Callable[[dict[str, Any]], object]


def changed_line(index: int, change: Change) -> bytes:
    """A chain that holds, with one line changed and everything linked anew."""
    lines, link = [], GENESIS
    for number, line in enumerate(LINES):
        values = json.loads(encode(line, link)[0])
        del values["link"]
        if number == index:
            change(values)
        lines.append(forge(values, link))
        link = json.loads(lines[-1])["link"]
    return b"".join(lines)


def forge(values: dict[str, Any], previous: str) -> bytes:
    import hashlib

    link = hashlib.sha256(bytes.fromhex(previous) + canonical(values)).hexdigest()
    return canonical({**values, "link": link}) + b"\n"


def test_forging_is_possible_which_is_why_heads_are_kept_elsewhere() -> None:
    forged = read(changed_line(3, lambda values: values.update(step=5)))
    assert forged.head != read(WHOLE).head


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, lambda v: v.update(format="casemate.privacy-ledger/2"), "format"),
        (0, lambda v: v.update(kind="run"), "keys"),
        (0, lambda v: v.update(budget=[]), "budget"),
        (0, lambda v: v.update(budget={"dataset": "a", "epsilon": 1, "delta": 0.1}), "budget"),
        (
            0,
            lambda v: v.update(
                budget={"dataset": "a", "epsilon": True, "delta": 0.1, "unit": "record"}
            ),
            "no number",
        ),
        (
            0,
            lambda v: v.update(budget={"dataset": "a", "epsilon": 1, "delta": 2, "unit": "record"}),
            "delta",
        ),
        (
            0,
            lambda v: v.update(budget={"dataset": "a", "epsilon": 1, "delta": 0.1, "unit": "user"}),
            "budget",
        ),
        (1, lambda v: v.update(unit="user"), "keys"),
        (1, lambda v: v.update(user_field="author"), "keys"),
        (1, lambda v: v.update(unit="user", user_field=""), "tells users apart"),
        (1, lambda v: v.update(unit="user", user_field=3), "no text"),
        (4, lambda v: v.update(run="run-1", unit="user", user_field="author"), "another unit"),
        (0, lambda v: v.pop("time_ms"), "keys"),
        (1, lambda v: v.update(kind="opened"), "keys"),
        (1, lambda v: v.update(extra=1), "keys"),
        (1, lambda v: v.update(unit="household"), "unit"),
        (1, lambda v: v.update(dataset="a\u0007b"), "name of a data set"),
        (1, lambda v: v.update(run="a b"), "run's name"),
        (1, lambda v: v.update(run=7), "no text"),
        (1, lambda v: v.update(event="x"), "no object"),
        (1, lambda v: v["event"].update(steps=0), "accounts for nothing"),
        (1, lambda v: v["event"].update(sampling_probability=1.5), "sampling probability"),
        (1, lambda v: v["event"].pop("cap"), "keys"),
        (2, lambda v: v.update(run="run-2"), "announced last"),
        (2, lambda v: v.update(step=-1), "whole number"),
        (2, lambda v: v.update(step=1.5), "whole number"),
        (2, lambda v: v.update(step=True), "whole number"),
        (2, lambda v: v.update(kind="refund"), "kind is unknown"),
        (4, lambda v: v.update(run="run-1", dataset="letters"), "for other data"),
    ],
)
def test_lines_that_hold_together_but_say_what_none_may(
    index: int, change: Change, message: str
) -> None:
    with pytest.raises(LedgerError, match=rf"ledger:{index + 1} .*{message}"):
        read(changed_line(index, change))


def test_a_second_opening_is_refused() -> None:
    with pytest.raises(LedgerError, match="one opening line"):
        read(b"".join(chain(LINES[0], Opened(Budget("tickets", 1e9, 0.5), 2))))
    with pytest.raises(LedgerError, match="one opening line"):
        read(b"".join(chain(LINES[1])))


def test_runs_of_other_data_than_the_budgets_are_refused() -> None:
    budget = Budget("letters", 3.0, 1e-5)
    with pytest.raises(LedgerError, match="budget of this ledger is for 'letters'"):
        read(b"".join(chain(Opened(budget, 1), LINES[1])))
    users = Budget("tickets", 3.0, 1e-5, "user", "author")
    with pytest.raises(LedgerError, match="protects users"):
        read(b"".join(chain(Opened(users, 1), LINES[1])))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b'","', b'", "', 1),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b'"step":0', b'"step":0,"step":0', 1),
        lambda data: data.replace(b'"step":0', b'"step":0.0', 1),
        lambda data: data.upper(),
        lambda data: b"[" * 3000 + b"\n" + data,
        lambda data: b"\n" + data,
        lambda data: b"",
        lambda data: b"\n",
        lambda data: b"\0" * 500,
    ],
)
def test_another_spelling_is_another_ledger(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(LedgerError):
        read(change(WHOLE))


def test_a_line_that_could_not_be_read_is_never_written() -> None:
    for line in (
        Charged("run-1", 2**53, 0),
        Announced("run-1", "x" * 300, "record", EVENT, 0),
        Torn(-1, "0" * 64, 0),
    ):
        with pytest.raises(LedgerError):
            encode(line, GENESIS)
