"""What a checkpoint holds: which files, and a record that fits them.

What it refuses: formats of weights that run code when they are loaded (pickles), code,
and whatever else has no place in the format; a record that names other bytes than are
there. The record's remaining keys are the trainer's business, and signed bytes here.

Pure functions of names, digests and the record's bytes.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from security.errors import BundleError
from security.signing.names import printable
from security.strictjson import StrictJsonError, canonical, parse

RECORD_NAME: Final = "training.json"
RECORD_FORMAT: Final = "casemate.training/1"
MAX_RECORD_BYTES: Final = 16 << 20
_MAX_DEPTH: Final = 6
_REQUIRED: Final = (RECORD_NAME, "config.json")
_WEIGHTS: Final = ".safetensors"
# Data that is read as data: no pickle (.bin, .pt, .pth, .ckpt), no code.
_SUFFIXES: Final = (".json", ".jsonl", _WEIGHTS, ".txt", ".md", ".model")
_PLAIN_NAMES: Final = frozenset({"LICENSE", "NOTICE"})


def check_names(names: frozenset[str]) -> None:
    """Require the files of a checkpoint, and none that has no place in it.

    Raises:
        BundleError: "missing-file" or "unknown-file".
    """
    for name in _REQUIRED:
        if name not in names:
            raise BundleError("missing-file", f"a checkpoint has a {name}")
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise BundleError("missing-file", f"a checkpoint has weights (*{_WEIGHTS})")
    for name in sorted(names):
        if not name.endswith(_SUFFIXES) and name not in _PLAIN_NAMES:
            raise BundleError(
                "unknown-file",
                f"{printable(name)} has no place in a checkpoint: it holds "
                f"{', '.join(_SUFFIXES)} files, LICENSE and NOTICE",
            )


def check_record(data: bytes, digests: Mapping[str, str]) -> str:
    """Require that `training.json` describes these files; return the name it states.

    Files that it does not name (a licence, a privacy report) may have been added.

    Raises:
        BundleError: "record-format", "missing-file" or "record-mismatch".
    """
    try:
        record = parse(data, max_bytes=MAX_RECORD_BYTES, max_depth=_MAX_DEPTH)
    except StrictJsonError as error:
        raise BundleError("record-format", f"{RECORD_NAME}: {error}") from error
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT:
        raise BundleError("record-format", f"{RECORD_NAME} is not of the format {RECORD_FORMAT}")
    if canonical(record) != data:
        raise BundleError("record-format", f"{RECORD_NAME} is no canonical JSON (RFC 8785)")
    name, files = record.get("name"), record.get("files")
    if not isinstance(name, str) or not isinstance(files, dict):
        raise BundleError("record-format", f"{RECORD_NAME} states no name or no files")
    for file, entry in sorted(files.items()):
        _check_file(file, entry, digests)
    for file in sorted(digests):
        if file.endswith(_WEIGHTS) and file not in files:
            raise BundleError(
                "record-mismatch", f"{RECORD_NAME} says nothing of the weights {printable(file)}"
            )
    return name


def _check_file(name: str, entry: object, digests: Mapping[str, str]) -> None:
    stated = entry.get("sha256") if isinstance(entry, dict) else None
    if not isinstance(stated, str):
        raise BundleError("record-format", f"{RECORD_NAME}: {printable(name)} has no sha256")
    if name not in digests:
        raise BundleError("missing-file", f"{RECORD_NAME} names {printable(name)}, not there")
    if not hmac.compare_digest(stated.encode(), digests[name].encode()):
        raise BundleError(
            "record-mismatch", f"{printable(name)} is not what training wrote ({RECORD_NAME})"
        )
