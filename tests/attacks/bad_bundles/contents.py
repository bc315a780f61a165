"""Signed files that were changed; signed bundles that are too large, stale or unsafe."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from security.bundle.manifest import encode_manifest
from tests.attacks.bad_bundles.registry import SMALL, Change, Family
from tests.attacks.bad_bundles.trees import MODEL, SIGNED
from tests.support.forged_bundles import PROBES, manifest, resign, write

CONTENTS = Family("content")
_add = CONTENTS.add


def _writing(name: str, data: bytes) -> Change:
    return lambda path: write(path, name, data)


def _edited(name: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda path: write(path, name, edit((path / name).read_bytes()))


def _resigned(*changes: Change) -> Change:
    """Apply changes, then have the trusted signer sign the outcome unseen."""

    def change(path: Path) -> None:
        for each in changes:
            each(path)
        resign(path)

    return change


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


for _name in SIGNED:
    _short = _name.rsplit("/", 1)[-1].replace(".", "-")
    for _label, _edit in {
        "first-bit": lambda data: _flip(data, 0),
        "middle-bit": lambda data: _flip(data, len(data) // 2),
        "last-bit": lambda data: _flip(data, len(data) - 1),
        "byte-appended": lambda data: data + b"\0",
        "byte-cut": lambda data: data[:-1],
        "cut-in-half": lambda data: data[: len(data) // 2],
        "emptied": lambda data: b"",
        "zeroed": lambda data: bytes(len(data)),
        "doubled": lambda data: data + data,
        "line-ends": lambda data: data.replace(b"\n", b"\r\n") + b"\r\n",
    }.items():
        _add(f"{_short}-{_label}", "digest-mismatch", _edited(_name, _edit))


def _exchanged(path: Path) -> None:
    first, second = (path / "bundle.json").read_bytes(), (path / "probes.jsonl").read_bytes()
    write(path, "bundle.json", second)
    write(path, "probes.jsonl", first)


_add("files-exchanged", "digest-mismatch", _exchanged)
_SIZE = len(PROBES)
_add("file-oversized", "oversized", lambda p: None, limits=replace(SMALL, max_file_bytes=_SIZE))
_add("total-oversized", "oversized", lambda p: None, limits=replace(SMALL, max_total_bytes=2_000))
_add("too-many-files", "too-many-files", lambda p: None, limits=replace(SMALL, max_files=2))


def _described(**fields: object) -> Change:
    return lambda path: write(path, "bundle.json", encode_manifest(manifest(**fields)))


_PAST = datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)
_add("expired", "expired", _resigned(_described(not_after=_PAST)))
_add("epoch-rolled-back", "rollback", lambda p: None, minimum_epoch=2)
_add("epoch-zero", "rollback", _resigned(_described(security_epoch=0)), minimum_epoch=1)

for _label, _unknown in {
    "readme": "README.md",
    "pickle": "pytorch_model.bin",
    "second-manifest": "variants/default/bundle.json",
    "unnamed-variant": "variants/other/model.gguf",
    "other-model-name": "variants/default/other.gguf",
    "tokenizer-nobody-needs": "tokenizer/tokenizer.json",
    "tokenizer-config": "tokenizer/tokenizer_config.json",
    "attestation-text": "attestations/notes.txt",
    "attestation-nested": "attestations/a/b.json",
    "script": "setup.py",
    "library": "libevil.so",
}.items():
    _add(f"unknown-{_label}", "unknown-file", _resigned(_writing(_unknown, b"{}")))

_add("without-manifest", "missing-file", _resigned(lambda p: (p / "bundle.json").unlink()))
_add("without-model", "missing-file", _resigned(lambda p: shutil.rmtree(p / "variants")))
_add(
    "too-many-attestations",
    "too-many-files",
    _resigned(*(_writing(f"attestations/a{i}.json", b"{}") for i in range(65))),
    limits=replace(SMALL, max_files=100),
)

# What a pre-parser refuses has that parser's own tests; here, that it is asked.
for _label, _model in {
    "empty": b"",
    "text": b"not a model",
    "pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.",
    "zip": b"PK\x03\x04" + bytes(64),
    "onnx-like": b"\x08\x08\x12\x04test",
}.items():
    _add(f"model-{_label}", "unsafe", _resigned(_writing(MODEL, _model)))
_add("model-truncated", "unsafe", _resigned(_edited(MODEL, lambda data: data[:-1])))
_add("model-magic", "unsafe", _resigned(_edited(MODEL, lambda data: b"GGML" + data[4:])))
_add("model-version-99", "unsafe", _resigned(_edited(MODEL, lambda d: d[:4] + b"\x63" + d[5:])))
