"""Statements that a trusted signer really signed, and that must be refused all the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from security.signing import oms
from security.signing.names import order_key
from tests.attacks.bad_bundles.registry import SMALL, Family
from tests.support.forged_bundles import resign, sign_payload, statement, write

STATEMENTS = Family("statement")
_add = STATEMENTS.add

Edit = Callable[[dict[str, Any]], object]


def _signed(edit: Edit) -> Callable[[Path], None]:
    return lambda path: resign(path, edit)


def _serialization(**changes: Any) -> Callable[[Path], None]:
    return _signed(lambda s: s["predicate"]["serialization"].update(changes))


def _without(parameter: str) -> Callable[[Path], None]:
    return _signed(lambda s: s["predicate"]["serialization"].pop(parameter))


def _redigest(document: dict[str, Any]) -> None:
    """Make the subject's digest fit the resources again, in the order they are in."""
    raw = b"".join(bytes.fromhex(r["digest"]) for r in document["predicate"]["resources"])
    document["subject"][0]["digest"]["sha256"] = hashlib.sha256(raw).hexdigest()


def _resources(edit: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def change(document: dict[str, Any]) -> None:
        edit(document["predicate"]["resources"])
        _redigest(document)

    return _signed(change)


def _listing(name: str) -> Callable[[Path], None]:
    """Sign a statement that also lists `name`, in its place in the order."""

    def edit(resources: list[dict[str, Any]]) -> None:
        resources.append({"name": name, "algorithm": "sha256", "digest": "0" * 64})
        resources.sort(key=lambda r: order_key(r["name"]))

    return _resources(edit)


def _payload(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: sign_payload(path, edit(json.dumps(statement(path)).encode()))


for _label, _reason, _edit in (
    ("type-v0.1", "statement-type", lambda s: s.update(_type="https://in-toto.io/Statement/v0.1")),
    ("type-null", "statement-type", lambda s: s.update(_type=None)),
    ("type-missing", "statement-format", lambda s: s.pop("_type")),
    ("unknown-key", "statement-format", lambda s: s.update(extra=1)),
    (
        "predicate-type-other",
        "predicate-type",
        lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
    ),
    (
        "predicate-type-oms-v0.2",
        "predicate-type",
        lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"),
    ),
    (
        "predicate-type-v1.1",
        "predicate-type",
        lambda s: s.update(predicateType=oms.PREDICATE_TYPE[:-1] + "1"),
    ),
    ("predicate-type-null", "predicate-type", lambda s: s.update(predicateType=None)),
    ("predicate-missing", "statement-format", lambda s: s.pop("predicate")),
    ("predicate-null", "statement-format", lambda s: s.update(predicate=None)),
    ("predicate-unknown-key", "statement-format", lambda s: s["predicate"].update(extra=1)),
    ("subject-missing", "statement-format", lambda s: s.pop("subject")),
    ("subject-none", "subject", lambda s: s.update(subject=[])),
    ("subject-two", "subject", lambda s: s["subject"].append(s["subject"][0])),
    ("subject-object", "subject", lambda s: s.update(subject=s["subject"][0])),
    ("subject-unknown-key", "subject", lambda s: s["subject"][0].update(uri="x")),
    ("subject-name-empty", "subject", lambda s: s["subject"][0].update(name="")),
    ("subject-name-null", "subject", lambda s: s["subject"][0].update(name=None)),
    ("subject-name-long", "subject", lambda s: s["subject"][0].update(name="x" * 256)),
    (
        "subject-digest-of-other-content",
        "subject-digest",
        lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
    ),
    (
        "subject-digest-upper-case",
        "subject",
        lambda s: s["subject"][0]["digest"].update(sha256="A" * 64),
    ),
    ("subject-digest-short", "subject", lambda s: s["subject"][0]["digest"].update(sha256="00")),
    (
        "subject-digest-sha512",
        "hash-algorithm",
        lambda s: s["subject"][0].update(digest={"sha512": "0" * 128}),
    ),
    (
        "subject-digest-two-algorithms",
        "hash-algorithm",
        lambda s: s["subject"][0]["digest"].update(sha512="0" * 128),
    ),
    ("subject-digest-none", "hash-algorithm", lambda s: s["subject"][0].update(digest={})),
    ("resources-null", "statement-format", lambda s: s["predicate"].update(resources=None)),
    ("resources-empty", "statement-format", lambda s: s["predicate"].update(resources=[])),
    ("serialization-missing", "statement-format", lambda s: s["predicate"].pop("serialization")),
    ("serialization-null", "serialization", lambda s: s["predicate"].update(serialization=None)),
):
    _add(_label, _reason, _signed(_edit))

for _label, _reason, _changes in (
    ("shards", "serialization", {"method": "shards", "shard_size": 1_000_000}),
    ("method-upper-case", "serialization", {"method": "FILES"}),
    ("method-null", "serialization", {"method": None}),
    ("unknown-parameter", "serialization", {"shard_size": 1}),
    ("hash-blake2b", "hash-algorithm", {"hash_type": "blake2b"}),
    ("hash-blake3", "hash-algorithm", {"hash_type": "blake3"}),
    ("hash-md5", "hash-algorithm", {"hash_type": "md5"}),
    ("hash-upper-case", "hash-algorithm", {"hash_type": "SHA256"}),
    ("hash-null", "hash-algorithm", {"hash_type": None}),
    ("symlinks-allowed", "symlink-policy", {"allow_symlinks": True}),
    ("symlinks-text", "symlink-policy", {"allow_symlinks": "false"}),
    ("symlinks-zero", "symlink-policy", {"allow_symlinks": 0}),
    ("symlinks-null", "symlink-policy", {"allow_symlinks": None}),
    ("ignoring-git", "ignore-paths", {"ignore_paths": ["model.sig", ".git"]}),
    ("ignoring-variants", "ignore-paths", {"ignore_paths": ["variants"]}),
    ("ignoring-everything", "ignore-paths", {"ignore_paths": ["."]}),
    ("ignoring-outside", "ignore-paths", {"ignore_paths": ["../x"]}),
    ("ignoring-absolute", "ignore-paths", {"ignore_paths": ["/etc"]}),
    ("ignoring-bundle-json", "ignore-paths", {"ignore_paths": ["bundle.json"]}),
    ("ignoring-twice", "ignore-paths", {"ignore_paths": ["model.sig", "model.sig"]}),
    ("ignoring-text", "ignore-paths", {"ignore_paths": "model.sig"}),
    ("ignoring-null", "ignore-paths", {"ignore_paths": None}),
    ("ignoring-number", "ignore-paths", {"ignore_paths": [1]}),
    ("ignoring-object", "ignore-paths", {"ignore_paths": [{}]}),
):
    _add(_label, _reason, _serialization(**_changes))

for _key, _reason in (
    ("method", "serialization"),
    ("hash_type", "hash-algorithm"),
    ("allow_symlinks", "symlink-policy"),
):
    _add(f"{_key.replace('_', '-')}-missing", _reason, _without(_key))

for _label, _reason, _edit_list in (
    ("resource-twice", "duplicate-name", lambda r: r.insert(0, dict(r[0]))),
    (
        "resource-twice-other-digest",
        "duplicate-name",
        lambda r: r.insert(0, r[0] | {"digest": "0" * 64}),
    ),
    ("resources-reversed", "resource-order", lambda r: r.reverse()),
    ("resource-digest-upper-case", "statement-format", lambda r: r[0].update(digest="AB" * 32)),
    ("resource-digest-short", "statement-format", lambda r: r[0].update(digest="ab" * 31)),
    ("resource-digest-long", "statement-format", lambda r: r[0].update(digest="ab" * 33)),
    ("resource-algorithm-sha1", "hash-algorithm", lambda r: r[0].update(algorithm="sha1")),
    ("resource-algorithm-sha512", "hash-algorithm", lambda r: r[0].update(algorithm="sha512")),
    ("resource-algorithm-blake3", "hash-algorithm", lambda r: r[0].update(algorithm="blake3")),
    ("resource-algorithm-null", "hash-algorithm", lambda r: r[0].update(algorithm=None)),
    ("resource-algorithm-missing", "statement-format", lambda r: r[0].pop("algorithm")),
    ("resource-unknown-key", "statement-format", lambda r: r[0].update(size=1)),
    ("resource-name-missing", "statement-format", lambda r: r[0].pop("name")),
    ("resource-name-null", "statement-format", lambda r: r[0].update(name=None)),
    ("resource-name-number", "statement-format", lambda r: r[0].update(name=7)),
    ("resource-name-list", "statement-format", lambda r: r[0].update(name=["bundle.json"])),
    ("resource-as-text", "statement-format", lambda r: r.append({"digest": "00"})),
    ("resource-left-out", "extra-file", lambda r: r.pop(0)),
    ("resource-case", "extra-file", lambda r: r[0].update(name="Bundle.json")),
):
    _add(_label, _reason, _resources(_edit_list))

for _label, _reason, _name in (
    ("path-escape", "path-escape", "../outside"),
    ("path-escape-inside", "path-escape", "variants/../../outside"),
    ("path-dotdot-that-stays", "path-escape", "variants/../bundle.json"),
    ("path-dotdot-alone", "path-escape", ".."),
    ("path-absolute", "absolute-path", "/etc/passwd"),
    ("path-double-slash", "bad-name", "variants//model.gguf"),
    ("path-trailing-slash", "bad-name", "variants/"),
    ("path-dot", "bad-name", "./bundle.json"),
    ("path-dot-inside", "bad-name", "variants/./x"),
    ("path-empty", "bad-name", ""),
    ("path-backslash", "backslash", "variants\\model.gguf"),
    ("path-backslash-escape", "backslash", "..\\outside"),
    ("path-nul", "nul", "bundle.json\0.txt"),
    ("path-line-break", "bad-name", "a\nb"),
    ("path-escape-sequence", "bad-name", "a\x1b[2Jb"),
    ("path-delete-character", "bad-name", "a\x7fb"),
    ("path-space", "bad-name", "a b"),
    ("path-leading-dash", "bad-name", "-rf"),
    ("path-hidden", "bad-name", ".hidden"),
    ("path-git", "bad-name", ".git/config"),
    ("path-trailing-dot", "bad-name", "model."),
    ("path-colon", "bad-name", "model.gguf:0:100"),
    ("path-drive", "bad-name", "C:model"),
    ("path-star", "bad-name", "*"),
    ("path-shell", "bad-name", "$(id)"),
    ("path-device-nul", "bad-name", "NUL"),
    ("path-device-con", "bad-name", "con.txt"),
    ("path-device-com1", "bad-name", "attestations/COM1.json"),
    ("path-not-nfc", "not-nfc", "mode\u0301le.gguf"),
    ("path-nfc", "bad-name", "mod\u00e8le.gguf"),
    ("path-look-alike", "bad-name", "bundl\u0435.json"),
    ("path-zero-width", "bad-name", "bundle\u200b.json"),
    ("path-right-to-left", "bad-name", "a\u202egnp.exe"),
    ("path-full-width-slash", "bad-name", "a\uff0fb"),
    ("path-lone-surrogate", "statement-format", "a\ud800"),
    ("path-too-deep", "bad-name", "a/b/c/d/e"),
    ("path-component-too-long", "bad-name", "x" * 129),
    ("path-huge", "bad-name", "x/" * 20_000 + "x"),
    ("path-case-collision", "case-collision", "BUNDLE.JSON"),
    ("path-case-collision-in-directory", "case-collision", "variants/Default/model.gguf"),
    ("path-case-collision-of-directory", "case-collision", "Variants/other/x"),
    ("path-file-and-directory", "name-conflict", "variants"),
    ("path-under-a-file", "name-conflict", "bundle.json/x"),
    ("path-of-signature", "bad-name", "model.sig"),
    ("path-of-sidecar", "bad-name", "model.sig.mldsa65"),
    ("path-of-missing-file", "missing-file", "attestations/missing.json"),
):
    _add(_label, _reason, _listing(_name))

for _label, _edit_bytes in {
    "empty": lambda data: b"",
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data: data.decode().encode("utf-16"),
    "truncated": lambda data: data[:-1],
    "trailing-data": lambda data: data + b"{}",
    "duplicate-key": lambda data: data.replace(b'"predicate"', b'"predicate":{},"predicate"', 1),
    "deep-nesting": lambda data: b'{"a":' * 5_000 + data + b"}" * 5_000,
    "nan": lambda data: data.replace(b"false", b"NaN"),
    "infinity": lambda data: data.replace(b"false", b"-Infinity"),
    "huge-number": lambda data: data.replace(b"false", b"9" * 5_000),
    "array": lambda data: b"[" + data + b"]",
    "text": lambda data: json.dumps(data.decode()).encode(),
    "invalid-utf-8": lambda data: data.replace(b"tiny", b"t\xff\xfey"),
}.items():
    _add(f"json-{_label}", "statement-format", _payload(_edit_bytes))


def _many_files(path: Path) -> None:
    for number in range(20):
        write(path, f"attestations/a{number:02}.json", b"{}")
    resign(path)


_add("too-many-files", "too-many-files", _many_files, limits=replace(SMALL, max_files=16))
