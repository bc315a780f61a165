"""OpenSSF Model Signing v1.0: the file `model.sig` and the statement inside it.

Source: https://github.com/ossf/model-signing-spec. `model.sig` is a Sigstore bundle
that holds a DSSE envelope that holds an in-toto statement that lists every file with
its SHA-256.

Stricter than the specification, on purpose: the policy for symbolic links and for
ignored files is ours and not the signed document's, so a statement may only say what
we do anyway; unknown keys, other methods than a key, other hashes than SHA-256,
shards, unsorted or repeated names are refused. What passes here also passes the
model-signing library.

`parse_signature` reads untrusted bytes; `parse_statement` is to be given only a
payload whose signatures have been verified.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from security.errors import BundleError, SignatureError
from security.signing.dsse import PAYLOAD_TYPE
from security.signing.names import (
    SIDECAR_NAME,
    SIGNATURE_NAME,
    SIGNATURE_NAMES,
    check_name,
    check_together,
    order_key,
    printable,
)
from security.strictjson import JsonValue, StrictJsonError, canonical, parse

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
MAX_SUBJECT_CHARS: Final = 255
# A DER signature by the largest curve, P-521, has at most 139 bytes.
MAX_ECDSA_BYTES: Final = 139
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Signature:
    """What `model.sig` holds: the claimed key, the signed payload, the DER signature."""

    hint: str
    payload: bytes
    ecdsa: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """What was signed.

    Attributes:
        name: the signer's name for the tree; informative.
        digest: SHA-256 (hex) over the raw digests of all files, in order.
        resources: file name to SHA-256 (hex), in the statement's order.
    """

    name: str
    digest: str
    resources: Mapping[str, str]


def subject_digest(resources: Mapping[str, str]) -> str:
    """Return SHA-256 (hex) over the raw digests, ordered by the components of the names."""
    hasher = hashlib.sha256()
    for name in sorted(resources, key=order_key):
        hasher.update(bytes.fromhex(resources[name]))
    return hasher.hexdigest()


def encode_statement(name: str, resources: Mapping[str, str]) -> bytes:
    """Return the in-toto statement about these files, as canonical JSON."""
    document: JsonValue = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": subject_digest(resources)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE_NAME, SIDECAR_NAME],
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": resources[name]}
                for name in sorted(resources, key=order_key)
            ],
        },
    }
    return canonical(document)


def encode_signature(signature: Signature) -> bytes:
    """Return the content of `model.sig`."""
    return canonical(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": signature.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(signature.payload).decode("ascii"),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [
                    {"sig": base64.b64encode(signature.ecdsa).decode("ascii"), "keyid": ""}
                ],
            },
        }
    )


def parse_signature(data: bytes, *, max_bytes: int) -> Signature:
    """Read `model.sig`. Nothing in the result has been verified.

    Raises:
        SignatureError: "signature-format", "media-type", "verification-material",
            "payload-type" or "signature-count".
    """
    top = _load(data, "signature-format", "model.sig", max_bytes)
    top = _object(top, {"mediaType", "verificationMaterial", "dsseEnvelope"}, "signature-format")
    if top["mediaType"] != MEDIA_TYPE:
        raise SignatureError("media-type", f"model.sig is no Sigstore bundle v0.3 ({MEDIA_TYPE})")
    hint = _hint(top["verificationMaterial"])
    envelope = _object(
        top["dsseEnvelope"], {"payload", "payloadType", "signatures"}, "signature-format"
    )
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise SignatureError("payload-type", f"model.sig must carry a payload of {PAYLOAD_TYPE}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise SignatureError("signature-count", "model.sig must hold exactly one signature")
    entry = _object(signatures[0], {"sig", "keyid"}, "signature-format")
    if entry["keyid"] != "":
        raise SignatureError("signature-format", "model.sig: keyid must be empty")
    ecdsa = _base64(entry["sig"], "sig")
    if not 0 < len(ecdsa) <= MAX_ECDSA_BYTES:
        raise SignatureError("signature-format", "model.sig: sig is no ECDSA signature")
    return Signature(hint, _base64(envelope["payload"], "payload"), ecdsa)


def parse_statement(payload: bytes, *, max_files: int) -> Statement:
    """Read the statement inside a signature that holds.

    Raises:
        BundleError: the signer signed something that this format does not allow;
            docs/formats/bundle.md, section 5, lists the reasons.
    """
    top = _load(payload, "statement-format", "the statement", len(payload))
    top = _object(top, {"_type", "subject", "predicateType", "predicate"}, "statement-format")
    if top["_type"] != STATEMENT_TYPE:
        raise SignatureError("statement-type", f"not an in-toto statement ({STATEMENT_TYPE})")
    if top["predicateType"] != PREDICATE_TYPE:
        raise SignatureError("predicate-type", f"not an OMS v1.0 statement ({PREDICATE_TYPE})")
    predicate = _object(top["predicate"], {"serialization", "resources"}, "statement-format")
    _check_serialization(predicate["serialization"])
    resources = _resources(predicate["resources"], max_files)
    name, digest = _subject(top["subject"])
    if not hmac.compare_digest(digest, subject_digest(resources)):
        raise SignatureError("subject-digest", "the subject's digest is not that of the resources")
    return Statement(name, digest, MappingProxyType(resources))


def _hint(material: object) -> str:
    if not isinstance(material, dict) or material.keys() != {"publicKey", "tlogEntries"}:
        raise SignatureError(
            "verification-material",
            "model.sig must be signed with a key; certificates and Sigstore are not accepted",
        )
    key = _object(material["publicKey"], {"hint"}, "verification-material")
    hint = key["hint"]
    if (
        material["tlogEntries"] != []
        or not isinstance(hint, str)
        or not _SHA256_HEX.fullmatch(hint)
    ):
        raise SignatureError(
            "verification-material", "model.sig must name its key by SHA-256 and have no log entry"
        )
    return hint


def _subject(subjects: object) -> tuple[str, str]:
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise SignatureError("subject", "a statement must have exactly one subject")
    subject = _object(subjects[0], {"name", "digest"}, "subject")
    name = subject["name"]
    digests = subject["digest"]
    if not isinstance(name, str) or not 0 < len(name) <= MAX_SUBJECT_CHARS:
        raise SignatureError(
            "subject", f"the subject's name has 1 to {MAX_SUBJECT_CHARS} characters"
        )
    if not isinstance(digests, dict) or digests.keys() != {"sha256"}:
        raise SignatureError("hash-algorithm", "the subject's digest must be SHA-256")
    return name, _sha256(digests["sha256"], "subject")


def _check_serialization(value: object) -> None:
    if not isinstance(value, dict) or value.get("method") != "files":
        raise SignatureError("serialization", "files must be hashed whole (method 'files')")
    if value.get("hash_type") != "sha256":
        raise SignatureError("hash-algorithm", "files must be hashed with SHA-256")
    if value.get("allow_symlinks") is not False:
        raise SignatureError("symlink-policy", "the statement allows symbolic links")
    ignored = value.get("ignore_paths", [])
    known = isinstance(ignored, list) and all(isinstance(path, str) for path in ignored)
    if not known or len(set(ignored)) != len(ignored) or not SIGNATURE_NAMES.issuperset(ignored):
        raise SignatureError(
            "ignore-paths", "the statement may leave out nothing but the two signature files"
        )
    if value.keys() - {"method", "hash_type", "allow_symlinks", "ignore_paths"}:
        raise SignatureError("serialization", "the serialization has an unknown parameter")


def _resources(value: object, max_files: int) -> dict[str, str]:
    if not isinstance(value, list) or not value:
        raise SignatureError("statement-format", "the statement lists no file")
    if len(value) > max_files:
        raise BundleError("too-many-files", f"the statement lists more than {max_files} files")
    names: list[str] = []
    resources: dict[str, str] = {}
    for item in value:
        entry = _object(item, {"name", "algorithm", "digest"}, "statement-format")
        name = entry["name"]
        if not isinstance(name, str):
            raise SignatureError("statement-format", "a resource's name is no string")
        check_name(name)
        if name in SIGNATURE_NAMES:
            raise SignatureError("bad-name", f"a signature cannot cover {printable(name)}")
        if entry["algorithm"] != "sha256":
            raise SignatureError("hash-algorithm", f"{printable(name)} must be hashed with SHA-256")
        names.append(name)
        resources[name] = _sha256(entry["digest"], "statement-format")
    check_together(names)
    if names != sorted(names, key=order_key):
        raise SignatureError("resource-order", "the statement's files are not in order")
    return resources


def _load(data: bytes, reason: str, what: str, max_bytes: int) -> object:
    try:
        return parse(data, max_bytes=max_bytes, max_depth=8)
    except StrictJsonError as error:
        raise SignatureError(reason, f"{what}: {error}") from error


def _object(value: object, keys: set[str], reason: str) -> dict[str, object]:
    """Return a JSON object that has exactly `keys`."""
    if not isinstance(value, dict) or value.keys() != keys:
        raise SignatureError(
            reason, f"an object must have the keys {', '.join(sorted(keys))}, and no other"
        )
    return value


def _base64(value: object, name: str) -> bytes:
    """Decode standard base64 that has exactly one spelling: padded, no stray bits."""
    if not isinstance(value, str):
        raise SignatureError("signature-format", f"model.sig: {name} must be base64")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError("signature-format", f"model.sig: {name} must be base64") from error
    if base64.b64encode(data).decode("ascii") != value:
        raise SignatureError("signature-format", f"model.sig: {name} is not canonical base64")
    return data


def _sha256(value: object, reason: str) -> str:
    if not isinstance(value, str) or _SHA256_HEX.fullmatch(value) is None:
        raise SignatureError(reason, "a SHA-256 digest has 64 lower-case hexadecimal digits")
    return value
