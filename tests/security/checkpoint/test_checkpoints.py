"""Signing and verifying checkpoints: what is accepted, and every refusal by its word."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from casemate.cli import sign, verify
from security.bundle.opening import open_bundle
from security.bundle.tree import OpenLimits
from security.checkpoint.signing import sign_checkpoint
from security.checkpoint.verifying import Step, is_checkpoint, verify_checkpoint
from security.errors import BundleError
from security.keys import public_pem, save_private_key
from security.strictjson import canonical
from tests.support.forged_bundles import signing_keys, trusting


def _weights() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.5)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)


def _record(path: Path, **changes: Any) -> None:
    """Write a training.json of the files that are there."""
    files = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": 1}
        for file in path.iterdir()
        if file.is_file() and file.name != "training.json"
    }
    record = {"format": "casemate.training/1", "name": "tiny", "files": files, **changes}
    _write(path / "training.json", canonical(record))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "final"
    path.mkdir(mode=0o755)
    _write(path / "config.json", b'{"model_type":"llama"}')
    _write(path / "model.safetensors", _weights())
    _write(path / "tokenizer.json", b"{}")
    _record(path)
    return path


def test_what_is_signed_verifies_in_every_step(checkpoint: Path) -> None:
    signed = sign_checkpoint(checkpoint, signing_keys())
    steps: list[Step] = []
    verified = verify_checkpoint(checkpoint, trusting(), on_step=steps.append)
    assert steps == list(Step)
    assert (verified.name, verified.digest, verified.signer) == ("tiny", signed.digest, "release")
    assert len(verified.files) == signed.file_count == 4
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert verified.files["model.safetensors"] == hashlib.sha256(weights).hexdigest()


def test_signing_again_replaces_and_added_data_is_covered(checkpoint: Path) -> None:
    first = sign_checkpoint(checkpoint, signing_keys())
    _write(checkpoint / "LICENSE", b"terms")
    _write(checkpoint / "1_Pooling" / "config.json", b"{}")
    (checkpoint / "1_Pooling").chmod(0o755)
    second = sign_checkpoint(checkpoint, signing_keys())
    assert second.digest != first.digest
    assert "1_Pooling/config.json" in verify_checkpoint(checkpoint, trusting()).files


def test_a_checkpoint_is_told_from_a_bundle_by_names(checkpoint: Path) -> None:
    assert is_checkpoint(checkpoint)
    sign_checkpoint(checkpoint, signing_keys())
    with pytest.raises(BundleError) as refused:
        open_bundle(checkpoint, trusting())
    assert refused.value.reason == "missing-file"
    _write(checkpoint / "bundle.json", b"{}")
    assert not is_checkpoint(checkpoint)


def _edited(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def _linked(path: Path) -> None:
    (path / "tokenizer.json").rename(path.parent / "elsewhere.json")
    (path / "tokenizer.json").symlink_to(path.parent / "elsewhere.json")


def _hard_linked(path: Path) -> None:
    os.link(path / "tokenizer.json", path.parent / "elsewhere.json")


def _foreign_sidecar(path: Path) -> None:
    (path / "model.sig.mldsa65").write_bytes(bytes(3309))


AFTER_SIGNING: dict[str, Callable[[Path], object]] = {
    "digest-mismatch": _edited,
    "extra-file": lambda path: _write(path / "notes.txt", b"x"),
    "extra-directory": lambda path: (path / "more").mkdir(mode=0o755),
    "missing-file": lambda path: (path / "config.json").unlink(),
    "symlink": _linked,
    "hard-link": _hard_linked,
    "mode": lambda path: (path / "config.json").chmod(0o664),
    "unsigned": lambda path: (path / "model.sig").unlink(),
    "no-sidecar": lambda path: (path / "model.sig.mldsa65").unlink(),
    "bad-sidecar": _foreign_sidecar,
}


@pytest.mark.parametrize("reason", AFTER_SIGNING)
def test_a_change_after_signing_is_refused(checkpoint: Path, reason: str) -> None:
    sign_checkpoint(checkpoint, signing_keys())
    AFTER_SIGNING[reason](checkpoint)
    with pytest.raises(BundleError) as refused:
        verify_checkpoint(checkpoint, trusting())
    assert refused.value.reason == reason


def _pickled_weights(path: Path) -> None:
    _write(path / "pytorch_model.bin", b"\x80\x04.")
    _record(path)


def _edited_after_export(path: Path) -> None:
    _write(path / "config.json", b'{"model_type":"gpt2"}')


def _unrecorded_weights(path: Path) -> None:
    _write(path / "adapter.safetensors", _weights())


def _not_canonical(path: Path) -> None:
    record = json.loads((path / "training.json").read_bytes())
    _write(path / "training.json", json.dumps(record, indent=1).encode())


BEFORE_SIGNING: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights that are a pickle": ("unknown-file", _pickled_weights),
    "code": ("unknown-file", lambda path: _write(path / "modeling.py", b"import os")),
    "no configuration": ("missing-file", lambda path: (path / "config.json").unlink()),
    "no weights": ("missing-file", lambda path: (path / "model.safetensors").unlink()),
    "no record": ("missing-file", lambda path: (path / "training.json").unlink()),
    "a file that training did not write so": ("record-mismatch", _edited_after_export),
    "weights that the record does not know": ("record-mismatch", _unrecorded_weights),
    "a record with spaces": ("record-format", _not_canonical),
    "a record of another format": ("record-format", lambda path: _record(path, format="x/1")),
    "a record that lists no files": ("record-format", lambda path: _record(path, files=[])),
    "a record without digests": ("record-format", lambda path: _record(path, files={"a": 1})),
    "a record that is no JSON": (
        "record-format",
        lambda path: _write(path / "training.json", b"{"),
    ),
    "a hidden file": ("bad-name", lambda path: _write(path / ".metadata.json", b"{}")),
    "an empty folder": ("empty-directory", lambda path: (path / "more").mkdir(mode=0o755)),
}


@pytest.mark.parametrize("defect", BEFORE_SIGNING)
def test_what_verifying_would_refuse_is_not_signed(checkpoint: Path, defect: str) -> None:
    reason, spoil = BEFORE_SIGNING[defect]
    spoil(checkpoint)
    with pytest.raises(BundleError) as refused:
        sign_checkpoint(checkpoint, signing_keys())
    assert refused.value.reason == reason
    assert not (checkpoint / "model.sig").exists()


def test_limits_bound_what_verifying_costs(checkpoint: Path) -> None:
    sign_checkpoint(checkpoint, signing_keys())
    for limits in (OpenLimits(max_file_bytes=20), OpenLimits(max_total_bytes=60)):
        with pytest.raises(BundleError) as refused:
            verify_checkpoint(checkpoint, trusting(), limits=limits)
        assert refused.value.reason == "oversized"


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    keys = signing_keys()
    for folder in ("signing", "signers"):
        (tmp_path / folder).mkdir()
    for suffix, key in (("ecdsa", keys.ecdsa), ("mldsa65", keys.mldsa65)):
        save_private_key(tmp_path / "signing" / f"release.{suffix}.key", key)
        public = tmp_path / "signers" / f"release.{suffix}.pem"
        public.write_bytes(public_pem(key))
        public.chmod(0o644)
    return tmp_path


def test_the_commands_take_a_checkpoint(checkpoint: Path, domain: Path) -> None:
    arguments = [str(checkpoint), "--keys", str(domain / "signing")]
    signed = CliRunner().invoke(sign.command, arguments)
    assert signed.exit_code == 0, signed.output
    assert "signed checkpoint tiny as release" in signed.output
    assert "probes" not in signed.output
    check = [str(checkpoint), "--signers", str(domain / "signers")]
    verified = CliRunner().invoke(verify.command, check)
    assert verified.exit_code == 0, verified.output
    assert verified.output.count("ok ") == len(Step)
    assert "checkpoint tiny is signed by release, 4 files" in verified.output
    _edited(checkpoint)
    refused = CliRunner().invoke(verify.command, [*check, "--json"])
    assert refused.exit_code == 1
    document = json.loads(refused.stdout)
    assert (document["accepted"], document["reason"]) == (False, "digest-mismatch")
    results = {each["check"]: each["result"] for each in document["checks"]}
    assert (results["tree"], results["digests"], results["record"]) == (
        "passed",
        "failed",
        "not reached",
    )
