"""The OMS v1.0 vectors: valid bundles are understood, invalid ones refused.

The vectors bring no models and no key file, so their files cannot be opened. What can
be checked is: the envelope of the key method, its signature (the certificate vector
holds the certificate of the same key), the statement's form, and the refusals.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from security.errors import SignatureError
from security.signing import dsse, oms

MAX_BYTES = 1 << 20


@pytest.fixture
def vectors(shared: Path) -> Path:
    path = shared / "vectors" / "oms-v1.0"
    if not path.is_dir():
        pytest.skip("the OMS vectors are not in the shared folder")
    return path


def _load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def _envelope(document: dict[str, Any]) -> tuple[bytes, bytes]:
    envelope = document["dsseEnvelope"]
    return (
        base64.b64decode(envelope["payload"]),
        base64.b64decode(envelope["signatures"][0]["sig"]),
    )


def _leaf_key(document: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    material = document["verificationMaterial"]
    chain = material.get("x509CertificateChain", {}).get("certificates")
    leaf = chain[0] if chain else material["certificate"]
    key = x509.load_der_x509_certificate(base64.b64decode(leaf["rawBytes"])).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def _without_ignored_paths(payload: bytes) -> bytes:
    """The vectors ignore git's files, which we refuse; nothing else about them is amiss."""
    statement = json.loads(payload)
    statement["predicate"]["serialization"]["ignore_paths"] = ["model.sig"]
    return json.dumps(statement).encode()


def test_the_valid_key_bundle_is_parsed(vectors: Path) -> None:
    path = vectors / "valid" / "key.bundle.json"
    signature = oms.parse_signature(path.read_bytes(), max_bytes=MAX_BYTES)
    payload, ecdsa = _envelope(_load(path))
    assert (signature.payload, signature.ecdsa) == (payload, ecdsa)
    assert signature.hint == _load(path)["verificationMaterial"]["publicKey"]["hint"]


@pytest.mark.parametrize("name", ["certificate", "sigstore"])
def test_signatures_of_the_vectors_hold_under_their_own_certificates(
    name: str, vectors: Path
) -> None:
    document = _load(vectors / "valid" / f"{name}.bundle.json")
    payload, ecdsa = _envelope(document)
    key = _leaf_key(document)
    assert dsse.verifies(key, ecdsa, payload)
    assert not dsse.verifies(key, ecdsa, payload + b" ")


def test_other_methods_than_a_key_are_refused(vectors: Path) -> None:
    for name in ("certificate", "sigstore"):
        data = (vectors / "valid" / f"{name}.bundle.json").read_bytes()
        with pytest.raises(SignatureError) as refusal:
            oms.parse_signature(data, max_bytes=MAX_BYTES)
        assert refusal.value.reason == "verification-material"


@pytest.mark.parametrize("name", ["key", "certificate", "sigstore"])
def test_statements_of_the_valid_vectors_are_understood(name: str, vectors: Path) -> None:
    payload, _ = _envelope(_load(vectors / "valid" / f"{name}.bundle.json"))
    statement = oms.parse_statement(_without_ignored_paths(payload), max_files=10)
    expected = json.loads(payload)
    assert list(statement.resources) == ["signme-1", "signme-2"]
    assert statement.digest == expected["subject"][0]["digest"]["sha256"]


def test_the_ignore_list_of_the_vectors_is_refused(vectors: Path) -> None:
    payload, _ = _envelope(_load(vectors / "valid" / "key.bundle.json"))
    with pytest.raises(SignatureError) as refusal:
        oms.parse_statement(payload, max_files=10)
    assert refusal.value.reason == "ignore-paths"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "signature-format"),
        ("missing-envelope", "signature-format"),
        ("missing-tlog-entries", "verification-material"),
        ("missing-verification-material", "signature-format"),
    ],
)
def test_invalid_bundles_are_refused(name: str, reason: str, vectors: Path) -> None:
    data = (vectors / "invalid" / f"{name}.bundle.json").read_bytes()
    with pytest.raises(SignatureError) as refusal:
        oms.parse_signature(data, max_bytes=MAX_BYTES)
    assert refusal.value.reason == reason


def test_every_invalid_vector_is_covered(vectors: Path) -> None:
    for path in (vectors / "invalid").iterdir():
        with pytest.raises(SignatureError):
            oms.parse_signature(path.read_bytes(), max_bytes=MAX_BYTES)


def test_the_wrong_predicate_is_refused(vectors: Path) -> None:
    data = (vectors / "invalid-payload" / "wrong-predicate.bundle.json").read_bytes()
    signature = oms.parse_signature(data, max_bytes=MAX_BYTES)
    with pytest.raises(SignatureError) as refusal:
        oms.parse_statement(signature.payload, max_files=10)
    assert refusal.value.reason == "predicate-type"


def test_the_key_vector_verifies_with_the_key_it_names(vectors: Path) -> None:
    signature = oms.parse_signature(
        (vectors / "valid" / "key.bundle.json").read_bytes(), max_bytes=MAX_BYTES
    )
    key = _leaf_key(_load(vectors / "valid" / "certificate.bundle.json"))
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert signature.hint == hashlib.sha256(pem).hexdigest()
    assert dsse.verifies(key, signature.ecdsa, signature.payload)
