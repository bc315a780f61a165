"""Digests of private data: under a key that a run makes once and keeps."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from security.strictjson import canonical
from tests.trainer.loop.runs import run_here
from tests.trainer.privacy.test_private_runs import load_private
from trainer.checkpointing.keyed import KEY_FILE, data_key, keyed
from trainer.checkpointing.record import decode_record, read_record
from trainer.errors import CheckpointError
from trainer.loop.session import run

_SMALL = (
    "run.steps=2",
    "optimizer.warmup_steps=0",
    "checkpoint.every_steps=2",
    "evaluation.every_steps=2",
)


def test_an_export_of_a_private_run_confirms_no_guess_and_its_owner_can_show_it(
    tmp_path: Path,
) -> None:
    output = tmp_path / "run"
    run(load_private(tmp_path, *_SMALL), output, quiet=True, environ={})
    record = read_record(output / "final")
    plain = hashlib.sha256((tmp_path / "corpus.txt").read_bytes()).hexdigest()
    assert record.keyed
    assert plain not in (output / "final" / "training.json").read_text()
    assert {source.size_bytes for source in record.sources} == {0}
    assert record.metrics == {}
    key = (output / KEY_FILE).read_bytes()
    assert record.sources[0].sha256 == hmac.new(key, plain.encode(), "sha256").hexdigest()
    assert output.stat().st_mode & 0o777 == 0o700
    for name in (KEY_FILE, "metrics.jsonl", "summary.json", "report.html"):
        assert (output / name).stat().st_mode & 0o077 == 0
    assert (output / "final" / "training.json").stat().st_mode & 0o777 == 0o644


def test_a_key_is_made_once_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    key = data_key(tmp_path)
    assert data_key(tmp_path) == key
    assert keyed(key, "ab") == keyed(data_key(tmp_path), "ab")
    (tmp_path / KEY_FILE).write_bytes(key[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        data_key(tmp_path)


def test_a_mark_that_says_anything_but_true_is_refused(tmp_path: Path) -> None:
    run_here(load_private(tmp_path, *_SMALL), tmp_path / "run")
    document: dict[str, Any] = json.loads((tmp_path / "run/final/training.json").read_text())
    assert decode_record(canonical(document)).encode() == canonical(document)
    with pytest.raises(CheckpointError, match=r"data\.keyed"):
        decode_record(canonical({**document, "data": {**document["data"], "keyed": False}}))
    document["data"]["sources"][0]["bytes"] = 5
    with pytest.raises(CheckpointError, match="bytes"):
        decode_record(canonical(document))
