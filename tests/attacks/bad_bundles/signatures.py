"""Defects of the two signature files, all before anything signed is believed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from security.bundle.signing import sign_bundle
from security.signing import dsse, mldsa, oms
from security.signing.names import SIDECAR_NAME, SIGNATURE_NAME
from tests.attacks.bad_bundles.registry import SMALL, Change, Family
from tests.support.forged_bundles import (
    NOW,
    edit_envelope,
    resign,
    signing_keys,
    statement,
    write,
)

SIGNATURES = Family("signature")
_add = SIGNATURES.add


def _remove(*names: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return change


def _bytes(name: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda path: write(path, name, edit((path / name).read_bytes()))


def _json(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda path: edit_envelope(path, edit)


def _stranger(path: Path) -> None:
    sign_bundle(path, signing_keys("stranger"), now=NOW)


def _stranger_claims_release(path: Path) -> None:
    _stranger(path)
    hint = signing_keys().public().hint
    edit_envelope(path, lambda top: top["verificationMaterial"]["publicKey"].update(hint=hint))


def _sidecar_of(signer: str) -> Callable[[Path], None]:
    """model.sig by release and the sidecar, over the same payload, by another signer."""

    def change(path: Path) -> None:
        payload = oms.parse_signature(
            (path / SIGNATURE_NAME).read_bytes(), max_bytes=1 << 20
        ).payload
        write(path, SIDECAR_NAME, mldsa.sign(signing_keys(signer).mldsa65, payload))

    return change


def _ecdsa_of(signer: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        keys = signing_keys(signer)
        old = oms.parse_signature((path / SIGNATURE_NAME).read_bytes(), max_bytes=1 << 20)
        signature = oms.Signature(
            keys.public().hint, old.payload, dsse.sign(keys.ecdsa, old.payload)
        )
        write(path, SIGNATURE_NAME, oms.encode_signature(signature))

    return change


def _of_another_bundle(name: str) -> Callable[[Path], None]:
    """One of the two signatures is genuine, but of an earlier content."""

    def change(path: Path) -> None:
        kept = (path / name).read_bytes()
        write(path, "probes.jsonl", b"{}\n")
        resign(path)
        write(path, name, kept)

    return change


def _sidecar_over(data: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A sidecar by the right key over something else than the DSSE encoding."""

    def change(path: Path) -> None:
        old = oms.parse_signature((path / SIGNATURE_NAME).read_bytes(), max_bytes=1 << 20)
        write(path, SIDECAR_NAME, signing_keys().mldsa65.sign(data(old.payload)))

    return change


def _old_pae(path: Path) -> None:
    """The faulty encoding of model-signing 0.2, which that library still accepts."""
    payload = json.dumps(statement(path)).encode()
    kind = dsse.PAYLOAD_TYPE
    wrong = f"DSSEV1 {len(kind)} {kind} {len(payload)} {payload!r}".encode()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    keys = signing_keys()
    signature = oms.Signature(
        keys.public().hint, payload, keys.ecdsa.sign(wrong, ec.ECDSA(hashes.SHA256()))
    )
    write(path, SIGNATURE_NAME, oms.encode_signature(signature))
    write(path, SIDECAR_NAME, mldsa.sign(keys.mldsa65, payload))


_add("absent", "unsigned", _remove(SIGNATURE_NAME, SIDECAR_NAME))
_add("without-sidecar", "no-sidecar", _remove(SIDECAR_NAME))
_add("sidecar-alone", "unsigned", _remove(SIGNATURE_NAME))
_add("by-stranger", "unknown-signer", _stranger)
_add("by-stranger-who-claims-release", "bad-signature", _stranger_claims_release)
_add("sidecar-by-second", "bad-sidecar", _sidecar_of("second"))
_add("sidecar-by-stranger", "bad-sidecar", _sidecar_of("stranger"))
_add("ecdsa-by-second", "bad-sidecar", _ecdsa_of("second"))
_add("ecdsa-by-stranger", "unknown-signer", _ecdsa_of("stranger"))
_add("sidecar-of-another-content", "bad-sidecar", _of_another_bundle(SIDECAR_NAME))
_add("ecdsa-of-another-content", "bad-sidecar", _of_another_bundle(SIGNATURE_NAME))
_add("sidecar-over-bare-payload", "bad-sidecar", _sidecar_over(lambda payload: payload))
_add("sidecar-over-nothing", "bad-sidecar", _sidecar_over(lambda _: b""))
_add(
    "sidecar-over-another-type",
    "bad-sidecar",
    _sidecar_over(lambda payload: dsse.pae("text/plain", payload)),
)
_add("with-faulty-pae-of-old-library", "bad-signature", _old_pae)

for _name, _reason in ((SIGNATURE_NAME, "signature-format"), (SIDECAR_NAME, "bad-sidecar")):
    _short = "ecdsa" if _name == SIGNATURE_NAME else "mldsa"
    for _label, _edit in {
        "empty": lambda data: b"",
        "cut-in-half": lambda data: data[: len(data) // 2],
        "one-byte-short": lambda data: data[:-1],
        "one-byte-long": lambda data: data + b"}",
        "nul-appended": lambda data: data + b"\0",
        "zeros": lambda data: bytes(len(data)),
        "doubled": lambda data: data + data,
    }.items():
        _add(f"{_short}-{_label}", _reason, _bytes(_name, _edit))
    _add(
        f"{_short}-oversized",
        "oversized",
        _bytes(_name, lambda data: data + b" " * 70_000),
        limits=replace(SMALL, max_signature_bytes=64 << 10),
    )


def _material(**value: Any) -> Callable[[Path], None]:
    return _json(lambda top: top.update(verificationMaterial=value))


_CERTIFICATE = {"rawBytes": base64.b64encode(b"certificate").decode()}
_HINT = {"hint": "0" * 64}
_OLD_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle+json;version=0.1"
for _label, _reason, _change in (
    (
        "media-type-v0.1",
        "media-type",
        lambda t: t.update(mediaType=_OLD_MEDIA_TYPE),
    ),
    ("media-type-missing", "signature-format", lambda t: t.pop("mediaType")),
    ("media-type-null", "media-type", lambda t: t.update(mediaType=None)),
    ("media-type-upper-case", "media-type", lambda t: t.update(mediaType=t["mediaType"].upper())),
    ("unknown-key", "signature-format", lambda t: t.update(extra=1)),
    ("envelope-missing", "signature-format", lambda t: t.pop("dsseEnvelope")),
    ("envelope-null", "signature-format", lambda t: t.update(dsseEnvelope=None)),
    ("envelope-list", "signature-format", lambda t: t.update(dsseEnvelope=[t["dsseEnvelope"]])),
    ("message-signature", "signature-format", lambda t: t.update(messageSignature={})),
    ("material-missing", "signature-format", lambda t: t.pop("verificationMaterial")),
):
    _add(f"{_label}", _reason, _json(_change))
_MATERIALS: dict[str, dict[str, Any]] = {
    "none": {},
    "certificate": {"certificate": _CERTIFICATE, "tlogEntries": []},
    "certificate-chain": {
        "x509CertificateChain": {"certificates": [_CERTIFICATE]},
        "tlogEntries": [],
    },
    "key-and-certificate": {
        "publicKey": _HINT,
        "certificate": _CERTIFICATE,
        "tlogEntries": [],
    },
    "timestamp": {"publicKey": _HINT, "tlogEntries": [], "timestampVerificationData": {}},
    "log-entry": {"publicKey": _HINT, "tlogEntries": [{"logIndex": "1"}]},
    "log-entries-missing": {"publicKey": _HINT},
    "log-entries-null": {"publicKey": _HINT, "tlogEntries": None},
    "hint-missing": {"publicKey": {}, "tlogEntries": []},
    "hint-null": {"publicKey": {"hint": None}, "tlogEntries": []},
    "hint-empty": {"publicKey": {"hint": ""}, "tlogEntries": []},
    "hint-upper-case": {"publicKey": {"hint": "A" * 64}, "tlogEntries": []},
    "key-inline": {"publicKey": {"hint": "0" * 64, "rawBytes": "AA=="}, "tlogEntries": []},
    "key-as-text": {"publicKey": "0" * 64, "tlogEntries": []},
}
for _label, _value in _MATERIALS.items():
    _add(f"material-{_label}", "verification-material", _material(**_value))
_add(
    "hint-of-nobody",
    "unknown-signer",
    _material(publicKey=_HINT, tlogEntries=[]),
)


def _envelope(**value: Any) -> Callable[[Path], None]:
    return _json(lambda top: top["dsseEnvelope"].update(value))


def _payload(edit: Callable[[str], object]) -> Callable[[Path], None]:
    return _json(lambda t: t["dsseEnvelope"].update(payload=edit(t["dsseEnvelope"]["payload"])))


def _sig(edit: Callable[[str], object]) -> Callable[[Path], None]:
    def change(top: dict[str, Any]) -> None:
        entry = top["dsseEnvelope"]["signatures"][0]
        entry["sig"] = edit(entry["sig"])

    return _json(change)


def _stray_bits(text: str) -> str:
    """Another spelling of the same bytes: the unused bits of the last digit are set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    data = base64.b64decode(text)
    while len(data) % 3 == 0:
        data += b" "
    spelled = base64.b64encode(data).decode()
    at = len(spelled.rstrip("=")) - 1
    return spelled[:at] + alphabet[alphabet.index(spelled[at]) + 1] + spelled[at + 1 :]


_add("payload-type-json", "payload-type", _envelope(payloadType="application/json"))
_add("payload-type-null", "payload-type", _envelope(payloadType=None))
_add("payload-type-upper-case", "payload-type", _envelope(payloadType=dsse.PAYLOAD_TYPE.upper()))
_add("count-none", "signature-count", _envelope(signatures=[]))
_add("count-null", "signature-count", _envelope(signatures=None))
_add(
    "count-two",
    "signature-count",
    _json(lambda t: t["dsseEnvelope"]["signatures"].append(t["dsseEnvelope"]["signatures"][0])),
)
_add("keyid-set", "signature-format", _envelope(signatures=[{"sig": "AA==", "keyid": "x"}]))
_add("keyid-missing", "signature-format", _envelope(signatures=[{"sig": "AA=="}]))
_add("entry-unknown-key", "signature-format", _envelope(signatures=[{"sig": "AA==", "a": 1}]))
_add("entry-no-object", "signature-format", _envelope(signatures=["AA=="]))
_add("envelope-unknown-key", "signature-format", _envelope(extra=1))
_add("ecdsa-value-empty", "signature-format", _sig(lambda _: ""))
_add("ecdsa-value-too-long", "signature-format", _sig(lambda _: "AAAA" * 100))
_add("ecdsa-value-no-der", "bad-signature", _sig(lambda _: "AAAA"))
_add("ecdsa-value-null", "signature-format", _sig(lambda _: None))
_add("ecdsa-value-zero", "bad-signature", _sig(lambda _: "MAYCAQACAQA="))
_add(
    "ecdsa-value-trailing-byte",
    "bad-signature",
    _sig(lambda text: base64.b64encode(base64.b64decode(text) + b"\0").decode()),
)
_add("payload-empty", "bad-signature", _payload(lambda _: ""))
_add("payload-number", "signature-format", _payload(lambda _: 1))
_add("payload-line-break", "signature-format", _payload(lambda text: text[:4] + "\n" + text[4:]))
_add("payload-url-alphabet", "signature-format", _payload(lambda text: "--__" + text[4:]))
_add("payload-excess-padding", "signature-format", _payload(lambda text: text + "="))
_add("payload-stray-bits", "signature-format", _payload(_stray_bits))
_add("payload-not-ascii", "signature-format", _payload(lambda text: "\u00e9" + text[1:]))
for _label, _edit in {
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data: data.decode().encode("utf-16"),
    "duplicate-key": lambda data: data.replace(b'"mediaType"', b'"mediaType":"x","mediaType"'),
    "deep-nesting": lambda data: b"[" * 100_000 + data,
    "nan": lambda data: b"NaN",
    "huge-number": lambda data: b"1" * 50_000,
    "array": lambda data: b"[" + data + b"]",
    "trailing-comma": lambda data: data.rstrip(b"}") + b",}}",
    "comment": lambda data: data + b"// signed",
    "invalid-utf-8": lambda data: data.replace(b'"keyid"', b'"key\xff"'),
    "lone-surrogate": lambda data: data.replace(b'"keyid":""', b'"keyid":"\\ud800"'),
}.items():
    _add(f"json-{_label}", "signature-format", _bytes(SIGNATURE_NAME, _edit))
