"""Facts of an export, kept for a compilation that is taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.bundling.exported import Export, keep_export, kept_export

EXPORT = Export({"casemate": "1"}, {"a": "0" * 64}, ("drops some",), 7, "gpt-2")


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    for export in (EXPORT, Export({}, {}, opset=18)):
        keep_export(tmp_path / "export.json", export)
        assert kept_export(tmp_path / "export.json") == export


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"tools":{"a":1}}', b"\xff"])
def test_what_is_not_whole_counts_as_missing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "export.json"
    assert kept_export(path) is None
    path.write_bytes(data)
    assert kept_export(path) is None
