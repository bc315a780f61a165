"""Digests of private data: under a key that a run makes once and keeps."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compiler.bundling.create import CreateRequest, create_bundle
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


def test_a_run_that_ends_again_says_the_same_and_its_key_stays(tmp_path: Path) -> None:
    """Killed after its export, a run exports again; what it hands on must agree with itself."""
    output = tmp_path / "run"
    loaded = load_private(tmp_path, *_SMALL)
    run_here(loaded, output)
    first, key = read_record(output / "final"), (output / KEY_FILE).read_bytes()
    shutil.rmtree(output / "final")
    run_here(loaded, output)
    again = read_record(output / "final")
    assert (output / KEY_FILE).read_bytes() == key
    assert (again.data_fingerprint, again.sources) == (first.data_fingerprint, first.sources)
    create_bundle(
        CreateRequest(output / "final", tmp_path / "bundle", "tiny", "1.0.0", probes=False),
        lambda _: None,
    )
    handed_on = [*(output / "final").rglob("*"), *(tmp_path / "bundle").rglob("*")]
    assert (tmp_path / "bundle" / "attestations" / "privacy.json") in handed_on
    for path in handed_on:
        data = path.read_bytes() if path.is_file() else b""
        assert path.name != KEY_FILE
        assert key not in data
        assert key.hex().encode() not in data


def test_a_key_under_another_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(bytes(32))
    (tmp_path / KEY_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="cannot be read"):
        data_key(tmp_path)


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
