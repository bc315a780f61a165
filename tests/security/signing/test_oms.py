"""model.sig and its statement: what is written is read, and hostile bytes only refused."""

from __future__ import annotations

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from security.bundle.opening import OpenLimits, verify_signatures
from security.errors import BundleError, SignatureError
from security.signing import dsse, mldsa, oms
from security.signing.names import SIDECAR_NAME, SIGNATURE_NAME
from tests.support.forged_bundles import signing_keys, trusting

A, B = "aa" * 32, "bb" * 32
PAYLOAD = oms.encode_statement("tiny", {"a/f": A, "a-b/f": B, "z": A})


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def test_a_statement_survives_the_round_trip() -> None:
    statement = oms.parse_statement(PAYLOAD, max_files=3)
    # By component: "a" comes before "a-b", although "/" comes after "-".
    assert list(statement.resources.items()) == [("a/f", A), ("a-b/f", B), ("z", A)]
    assert statement.name == "tiny"
    raw = bytes.fromhex(A) + bytes.fromhex(B) + bytes.fromhex(A)
    assert statement.digest == hashlib.sha256(raw).hexdigest()


def test_the_digest_does_not_depend_on_the_order_given() -> None:
    assert oms.subject_digest({"b": B, "a": A}) == oms.subject_digest({"a": A, "b": B})
    assert oms.subject_digest({"a": A, "b": B}) != oms.subject_digest({"a": B, "b": A})


def test_a_signature_file_survives_the_round_trip() -> None:
    signature = oms.Signature("ab" * 32, PAYLOAD, b"\x30\x06\x02\x01\x01\x02\x01\x01")
    data = oms.encode_signature(signature)
    assert oms.parse_signature(data, max_bytes=len(data)) == signature
    with pytest.raises(SignatureError):
        oms.parse_signature(data, max_bytes=len(data) - 1)


def test_the_limit_on_files_is_inclusive() -> None:
    oms.parse_statement(PAYLOAD, max_files=3)
    with pytest.raises(BundleError) as refusal:
        oms.parse_statement(PAYLOAD, max_files=2)
    assert refusal.value.reason == "too-many-files"


def test_the_encoding_is_that_of_dsse_v1() -> None:
    # The example of https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == expected


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_every_curve_of_oms_signs_with_its_hash(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    signature = dsse.sign(key, PAYLOAD)
    assert dsse.verifies(key.public_key(), signature, PAYLOAD)
    assert not dsse.verifies(key.public_key(), signature, PAYLOAD + b"\n")


def test_another_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    with pytest.raises(ValueError, match="secp256k1"):
        dsse.sign(key, PAYLOAD)


def test_a_sidecar_has_one_length() -> None:
    keys = signing_keys()
    sidecar = mldsa.sign(keys.mldsa65, PAYLOAD)
    assert len(sidecar) == mldsa.SIDECAR_BYTES
    public = keys.public().mldsa65
    assert mldsa.verifies(public, sidecar, PAYLOAD)
    for wrong in (b"", sidecar[:-1], sidecar + b"\0", sidecar * 2):
        assert not mldsa.verifies(public, wrong, PAYLOAD)


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=300) | _json_values.map(_json))
def test_any_bytes_for_model_sig_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(SignatureError):
        oms.parse_signature(data, max_bytes=1 << 20)


_PATHS = [
    ("_type",),
    ("subject",),
    ("subject", 0),
    ("subject", 0, "name"),
    ("subject", 0, "digest"),
    ("predicateType",),
    ("predicate",),
    ("predicate", "serialization"),
    ("predicate", "serialization", "method"),
    ("predicate", "serialization", "ignore_paths"),
    ("predicate", "resources"),
    ("predicate", "resources", 0),
    ("predicate", "resources", 0, "name"),
    ("predicate", "resources", 0, "digest"),
]


@settings(max_examples=300)
@given(path=st.sampled_from(_PATHS), value=_json_values)
def test_any_value_anywhere_in_a_statement_gives_a_statement_or_a_bundle_error(
    path: tuple[str | int, ...], value: object
) -> None:
    document = json.loads(PAYLOAD)
    holder = document
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    try:
        statement = oms.parse_statement(_json(document), max_files=10)
    except BundleError:
        return
    assert statement.digest == oms.subject_digest(statement.resources)


@settings(max_examples=300)
@given(ecdsa=st.binary(min_size=1, max_size=139), sidecar=st.binary(max_size=4_000))
def test_any_bytes_for_the_signatures_are_refused(ecdsa: bytes, sidecar: bytes) -> None:
    keys = signing_keys()
    hint = keys.public().hint
    good = dsse.sign(keys.ecdsa, PAYLOAD)
    for signature in (ecdsa, good):
        files = {
            SIGNATURE_NAME: oms.encode_signature(oms.Signature(hint, PAYLOAD, signature)),
            SIDECAR_NAME: sidecar,
        }
        with pytest.raises(SignatureError):
            verify_signatures(files, trusting(), OpenLimits())
