"""Small bundles to attack: good ones, and whatever a trusted signer can be made to sign."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, mldsa

from security.bundle.manifest import (
    BundleLimits,
    BundleManifest,
    ServingDefaults,
    Variant,
    encode_manifest,
)
from security.bundle.signing import sign_bundle
from security.signing import dsse, oms
from security.signing import mldsa as sidecar
from security.signing.names import SIDECAR_NAME, SIGNATURE_NAME, SIGNATURE_NAMES
from security.signing.signers import SigningKeys, Trust
from tests.support.tiny_models import tiny_gguf

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PROBES = b'{"expect":{},"id":"p1","kind":"generate","request":{},"tolerance":{}}\n'


def signing_keys(name: str = "release") -> SigningKeys:
    """Return this process's keys for a signer of that name."""
    return _keys(name)


@functools.cache
def _keys(name: str) -> SigningKeys:
    return SigningKeys(
        name, ec.generate_private_key(ec.SECP256R1()), mldsa.MLDSA65PrivateKey.generate()
    )


def trusting(*names: str) -> Trust:
    """Trust the signers of these names; "release" if none is given."""
    return Trust.of(*(signing_keys(name).public() for name in names or ("release",)))


@functools.cache
def tiny_model() -> bytes:
    """Return the bytes of a small GGUF that passes the pre-parser."""
    with tempfile.TemporaryDirectory() as folder:
        return tiny_gguf(Path(folder) / "model.gguf").read_bytes()


def manifest(**changes: Any) -> BundleManifest:
    """Return a good manifest with the given fields replaced."""
    base = BundleManifest(
        name="tiny",
        version="1.0.0",
        security_epoch=1,
        task="generate",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        variants=(Variant.of("default", "llama.cpp"),),
        limits=BundleLimits(context_tokens=256, max_sequences=4, max_output_tokens=128),
        serving_defaults=ServingDefaults(max_tokens=32),
    )
    return replace(base, **changes)


def write(path: Path, name: str, data: bytes) -> Path:
    """Write a file of a bundle with the modes that the format wants."""
    file = path / name
    for folder in reversed(file.parents):
        if folder.is_relative_to(path) and not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
    file.write_bytes(data)
    file.chmod(0o644)
    return file


def make_bundle(path: Path, contents: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """Write an unsigned bundle: manifest, a tiny model per variant, probes, `contents`."""
    described = manifest(**changes)
    write(path, "bundle.json", encode_manifest(described))
    for variant in described.variants:
        write(path, variant.file, tiny_model())
    write(path, "probes.jsonl", PROBES)
    for name, data in (contents or {}).items():
        write(path, name, data)
    return path


def make_signed(path: Path, contents: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """Write a bundle signed by "release"."""
    make_bundle(path, contents, **changes)
    sign_bundle(path, signing_keys(), now=NOW)
    return path


def statement(path: Path) -> dict[str, Any]:
    """Return the statement about whatever lies in `path`, unchecked."""
    names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    digests = {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest()
        for name in names
        if name not in SIGNATURE_NAMES
    }
    document: dict[str, Any] = json.loads(oms.encode_statement("tiny-1.0.0", digests))
    return document


def sign_payload(path: Path, payload: bytes, signer: str = "release") -> None:
    """Put a signer's two valid signatures over any payload into `path`."""
    keys = signing_keys(signer)
    signature = oms.Signature(keys.public().hint, payload, dsse.sign(keys.ecdsa, payload))
    write(path, SIGNATURE_NAME, oms.encode_signature(signature))
    write(path, SIDECAR_NAME, sidecar.sign(keys.mldsa65, payload))


def resign(path: Path, edit: Callable[[dict[str, Any]], object] | None = None) -> None:
    """Sign `path` as it is, without any check, after `edit` changed the statement."""
    document = statement(path)
    if edit is not None:
        edit(document)
    sign_payload(path, json.dumps(document, ensure_ascii=True).encode())


def edit_envelope(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of model.sig outside of what is signed."""
    document = json.loads((path / SIGNATURE_NAME).read_bytes())
    edit(document)
    write(path, SIGNATURE_NAME, json.dumps(document).encode())
