"""Signed bundle.json files that are not acceptable, field by field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from security.bundle.manifest import encode_manifest
from security.strictjson import canonical
from tests.attacks.bad_bundles.registry import Change, Family
from tests.support.forged_bundles import manifest, resign, write

MANIFESTS = Family("manifest")
_add = MANIFESTS.add

Document = dict[str, Any]


def _bytes(edit: Callable[[bytes], bytes]) -> Change:
    def change(path: Path) -> None:
        write(path, "bundle.json", edit((path / "bundle.json").read_bytes()))
        resign(path)

    return change


def _field(edit: Callable[[Document], object]) -> Change:
    """Edit the JSON and write it canonically, so that only the field is wrong."""

    def encode(data: bytes) -> bytes:
        document = json.loads(data)
        edit(document)
        return canonical(document)

    return _bytes(encode)


def _holder(document: Document, path: str) -> tuple[Any, str | int]:
    """Return what holds the last component of "a.b.0.c", and that component."""
    here: Any = document
    *parts, last = path.split(".")
    for part in parts:
        here = here[int(part) if part.isdigit() else part]
    return here, int(last) if last.isdigit() else last


def _set(path: str, value: object) -> Change:
    def edit(document: Document) -> None:
        holder, key = _holder(document, path)
        holder[key] = value

    return _field(edit)


def _drop(path: str) -> Change:
    def edit(document: Document) -> None:
        holder, key = _holder(document, path)
        del holder[key]

    return _field(edit)


def _leaves(value: object, prefix: str = "") -> list[str]:
    """Every field's path, objects included: "limits", "limits.context_tokens", ..."""
    if not isinstance(value, Mapping):
        return []
    found: list[str] = []
    for key, item in value.items():
        found += [prefix + key, *_leaves(item, f"{prefix}{key}.")]
    return found


_GOOD: Document = json.loads(encode_manifest(manifest()))
_FIELDS = [*_leaves(_GOOD), "variants.0.id", "variants.0.backend", "variants.0.file"]
for _path in _FIELDS:
    _label = _path.replace(".", "-").replace("_", "-")
    _add(f"missing-{_label}", "manifest-field", _drop(_path))
    _add(f"object-{_label}", "manifest-field", _set(_path, {"a": 1}))
    _add(f"list-{_label}", "manifest-field", _set(_path, [[]]))
    _add(f"true-{_label}", "manifest-field", _set(_path, True))

for _path in ("unknown", "variants.0.unknown", "limits.unknown", "special_tokens.unknown"):
    _add(f"unknown-key-{_path.replace('.', '-')}", "manifest-field", _set(_path, 1))
_add("unknown-key-defaults", "manifest-field", _set("serving_defaults.seed", 1))
_add("unknown-key-case", "manifest-field", _set("Name", "tiny"))

_WRONG: dict[str, list[object]] = {
    "format": ["casemate.bundle/2", "casemate.bundle/1 ", "", None, 1],
    "name": ["", "Tiny", "-x", "a b", "a/b", "../x", "x" * 65, "t\u00efny", "a\n", None, 1],
    "version": [
        "",
        "1",
        "1.0",
        "v1.0.0",
        "01.0.0",
        "1.0.0-",
        "1.0.0-01",
        "1.0.0+",
        "1.0.0 ",
        "1.0.0\n",
        "1.0.0-" + "a" * 100,
        "9999999999.0.0",
        "\u0661.0.0",
        None,
        1,
    ],
    "security_epoch": [-1, 2**31, 2**53 - 1, 1.5, "1", None],
    "task": ["Generate", "chat", "", None, 1],
    "created": [
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+00:00",
        "2026-02-30T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01t00:00:00z",
        "",
        None,
        1,
    ],
    "not_after": ["never", "2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z", 0, ""],
    "license": ["\0", 1],
    "variants": [[], None, {}, [None], ["default"]],
    "variants.0.id": ["", "..", "Default", "a/b", "x" * 65, None],
    "variants.0.backend": ["torch", "onnxruntime", "", None],
    "variants.0.file": ["model.gguf", "../model.gguf", "/model.gguf", "variants/other/model.gguf"],
    "variants.0.requires": [
        None,
        {},
        "x86-64-v3",
        [],
        {"cpu": None},
        {"cpu": ""},
        {"cpu": "X86-64-V3"},
        {"cpu": "x86-64-v3\n"},
        {"cpu": "x" * 65},
        {"cpu": ["x86-64-v3"]},
        {"cpu": "x86-64-v3", "memory": 1},
    ],
    "tokenizer": [{"kind": "huggingface", "file": "tokenizer/tokenizer.json"}, {}, "x"],
    "limits.context_tokens": [0, -1, 2**22 + 1, 1.5, "256", None],
    "limits.max_sequences": [0, -1, 4097, None],
    "limits.max_output_tokens": [-1, 257, None],
    "chat_template": ["\0", 1, "x" * 200_001],
    "special_tokens.bos": ["x" * 257, "\0", 1],
    "special_tokens.eos": ["x" * 257, "\0", 1],
    "serving_defaults.max_tokens": [0, -1, 129, 1.5, None],
    "serving_defaults.temperature": [-0.1, 2.1, "0", None],
    "serving_defaults.top_k": [-1, 2**31, 0.5, None],
    "serving_defaults.top_p": [0, -0.1, 1.1, None],
    "serving_defaults.min_p": [-0.1, 1, 1.1, None],
    "serving_defaults.repetition_penalty": [0, -1, 2.1, None],
    "serving_defaults.presence_penalty": [-2.1, 2.1, None],
    "encoder": [{"pooling": "mean", "normalize": True, "dim": 4, "labels": []}, {}, "mean"],
}
for _path, _values in _WRONG.items():
    for _number, _value in enumerate(_values):
        _label = f"{_path.replace('.', '-').replace('_', '-')}-{_number}"
        _add(f"wrong-{_label}", "manifest-field", _set(_path, _value))

_variant = _GOOD["variants"][0]
_add("two-variants-of-one-id", "manifest-field", _set("variants", [_variant, _variant]))
_add("many-variants", "manifest-field", _set("variants", [_variant] * 33))
_add(
    "embed-without-encoder",
    "manifest-field",
    _field(lambda d: d.update(task="embed", variants=[_onnx()])),
)


def _onnx() -> Document:
    return {
        "id": "default",
        "backend": "onnxruntime",
        "file": "variants/default/model.onnx",
    }


def _classifier(labels: list[str]) -> Change:
    def edit(document: Document) -> None:
        document.update(
            task="classify",
            variants=[_onnx()],
            tokenizer={"kind": "huggingface", "file": "tokenizer/tokenizer.json"},
            encoder={"pooling": "cls", "normalize": False, "dim": 4, "labels": labels},
        )

    return _field(edit)


def _swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new)


_add("classify-without-labels", "manifest-field", _classifier([]))
_add("classify-with-label-twice", "manifest-field", _classifier(["a", "a"]))
_add("classify-with-empty-label", "manifest-field", _classifier([""]))
_add("classify-with-label-not-nfc", "manifest-field", _classifier(["e\u0301"]))

for _label, _reason, _edit in (
    ("space", "manifest-not-canonical", lambda data: data.replace(b":", b": ", 1)),
    ("line-end", "manifest-not-canonical", lambda data: data + b"\n"),
    ("leading-space", "manifest-not-canonical", lambda data: b" " + data),
    ("indented", "manifest-not-canonical", lambda data: json.dumps(json.loads(data), indent=1)),
    (
        "key-order",
        "manifest-not-canonical",
        lambda data: json.dumps(dict(reversed(json.loads(data).items())), separators=(",", ":")),
    ),
    ("escape", "manifest-not-canonical", lambda data: data.replace(b"tiny", b"t\\u0069ny")),
    ("escaped-slash", "manifest-not-canonical", lambda data: data.replace(b"/1", b"\\/1")),
    ("number-point", "manifest-not-canonical", lambda d: d.replace(b'"top_p":1', b'"top_p":1.0')),
    (
        "number-exponent",
        "manifest-not-canonical",
        _swap(b'"top_p":1', b'"top_p":1e0'),
    ),
    (
        "number-minus-zero",
        "manifest-not-canonical",
        _swap(b'"min_p":0', b'"min_p":-0'),
    ),
    ("bom", "manifest-json", lambda data: b"\xef\xbb\xbf" + data),
    ("utf-16", "manifest-json", lambda data: data.decode().encode("utf-16")),
    ("utf-32", "manifest-json", lambda data: data.decode().encode("utf-32-le")),
    ("empty", "manifest-json", lambda data: b""),
    ("truncated", "manifest-json", lambda data: data[:-1]),
    ("trailing-nul", "manifest-json", lambda data: data + b"\0"),
    ("two-documents", "manifest-json", lambda data: data + data),
    ("duplicate-key", "manifest-json", lambda data: b'{"name":"x",' + data[1:]),
    ("deep-nesting", "manifest-json", lambda data: b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    ("nan", "manifest-json", lambda data: data.replace(b'"top_p":1', b'"top_p":NaN')),
    ("infinity", "manifest-json", lambda data: data.replace(b'"top_p":1', b'"top_p":1e999')),
    ("huge-number", "manifest-json", lambda d: d.replace(b'epoch":1', b'epoch":' + b"1" * 5_000)),
    (
        "unsafe-number",
        "manifest-json",
        _swap(b'epoch":1', b'epoch":9007199254740993'),
    ),
    ("lone-surrogate", "manifest-json", lambda data: data.replace(b"tiny", b"\\ud800")),
    ("invalid-utf-8", "manifest-json", lambda data: data.replace(b"tiny", b"t\xffny")),
    ("comment", "manifest-json", lambda data: data + b"/* */"),
    ("oversized", "oversized", lambda data: data + b" " * (1 << 20)),
    ("list", "manifest-field", lambda data: b"[]"),
    ("text", "manifest-field", lambda data: b'"casemate.bundle/1"'),
    ("null", "manifest-field", lambda data: b"null"),
):

    def _encoded(data: bytes, edit: Callable[[bytes], bytes | str] = _edit) -> bytes:
        result = edit(data)
        return result.encode() if isinstance(result, str) else result

    _add(f"json-{_label}", _reason, _bytes(_encoded))
