from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.store.errors import JournalDamaged, StoreError
from runtime.store.filesystem import RealFilesystem
from runtime.store.journal import FIRST_PREV, Journal, encode_record, replay
from tests.store.crashing import FullFilesystem

NOWHERE = Path("journal")
JSON = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=20), max_size=4)


def lines_of(records: list[dict[str, object]]) -> list[bytes]:
    lines, head = [], FIRST_PREV
    for number, record in enumerate(records):
        line = encode_record(number, head, record)
        head = hashlib.sha256(line).hexdigest()
        lines.append(line)
    return lines


@given(st.lists(JSON, max_size=6))
def test_what_is_written_is_read(records: list[dict[str, object]]) -> None:
    found = replay(NOWHERE, b"".join(lines_of(records)))
    assert list(found.records) == records


@given(st.lists(JSON, min_size=1, max_size=5), st.data())
def test_cut_off_at_any_byte_the_whole_records_before_remain(
    records: list[dict[str, object]], data: st.DataObject
) -> None:
    lines = lines_of(records)
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    found = replay(NOWHERE, content[:cut])
    whole = 0
    while whole < len(lines) and len(b"".join(lines[: whole + 1])) <= cut:
        whole += 1
    assert list(found.records) == records[:whole]
    assert found.size_bytes == len(b"".join(lines[:whole]))


@given(st.data())
def test_a_changed_byte_before_the_last_record_is_damage(data: st.DataObject) -> None:
    lines = lines_of([{"a": number} for number in range(4)])
    content = bytearray(b"".join(lines))
    position = data.draw(st.integers(0, len(content) - len(lines[-1]) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(JournalDamaged):
        replay(NOWHERE, bytes(content))


def test_a_record_taken_out_of_the_middle_breaks_the_chain() -> None:
    lines = lines_of([{"a": number} for number in range(4)])
    with pytest.raises(JournalDamaged, match="hash chain"):
        replay(NOWHERE, lines[0] + lines[2] + lines[3])


def test_records_of_another_journal_break_the_chain() -> None:
    ours, theirs = lines_of([{"a": 1}, {"a": 2}]), lines_of([{"b": 1}, {"b": 2}])
    with pytest.raises(JournalDamaged, match="hash chain"):
        replay(NOWHERE, ours[0] + theirs[1])


def test_a_torn_tail_is_cut_off_on_open_and_appending_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, _ = Journal.open(path, RealFilesystem())
    journal.append({"n": 1})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'0000ffff 12345678 {"torn')
    journal, found = Journal.open(path, RealFilesystem())
    assert [dict(record) for record in found.records] == [{"n": 1}]
    assert path.read_bytes() == whole
    journal.append({"n": 2})
    journal.close()
    assert len(replay(path, path.read_bytes()).records) == 2


def test_an_append_that_fails_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filesystem = FullFilesystem()
    journal, _ = Journal.open(path, filesystem)
    journal.append({"n": 1})
    whole = path.read_bytes()
    filesystem.arm(0)  # the write, half of it done
    with pytest.raises(StoreError) as raised:
        journal.append({"n": 2})
    assert raised.value.reason == "disk-full"
    assert "no space left" in str(raised.value)
    assert path.read_bytes() == whole
    journal.append({"n": 3})
    journal.close()
    assert [r["n"] for r in replay(path, path.read_bytes()).records] == [1, 3]


def test_when_even_cutting_back_fails_the_journal_stops(tmp_path: Path) -> None:
    class Dying(FullFilesystem):
        def _step(self, action, half=None):
            if self.refuse_at is not None:
                raise OSError(errno.EIO, "Input/output error")
            super()._step(action, half)

    filesystem = Dying()
    journal, _ = Journal.open(tmp_path / "journal", filesystem)
    filesystem.arm(0)
    with pytest.raises(StoreError):
        journal.append({"n": 1})
    filesystem.refuse_at = None
    with pytest.raises(StoreError, match="restart"):
        journal.append({"n": 2})
    journal.close()


def test_a_record_is_canonical_json_on_one_line() -> None:
    line = encode_record(0, FIRST_PREV, {"b": 1, "a": "\n"})
    assert line.count(b"\n") == 1
    assert json.loads(line[18:-1]) == {"seq": 0, "prev": FIRST_PREV, "data": {"a": "\n", "b": 1}}
