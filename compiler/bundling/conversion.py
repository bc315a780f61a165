"""The statement of how a bundle's model files were made: `attestations/conversion.json`.

It closes the gap between a source and the files that an appliance runs: the digest of every
file of the source, the plan of each variant, what was measured of it, and the versions of
all that took part. It holds no path of the machine, no time and no text, so that the same
source, plan and versions give the same bytes. docs/formats/bundle.md, section 11, is
normative.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Final

from casemate import __version__
from compiler.bundling.exported import Export
from compiler.bundling.forms import Form
from compiler.bundling.texts import Texts
from compiler.source.source import Source
from compiler.targets.target import Target
from compiler.tune.promise import Promise
from security.bundle.attestations import encode_statement
from security.bundle.conversion import CONVERSION_FORMAT, CONVERSION_TYPE
from security.bundle.manifest import LLAMA_CPP
from security.strictjson import JsonValue

_TOOLS: Final[Mapping[str, tuple[str, ...]]] = {
    LLAMA_CPP: ("gguf", "llama-cpp-python", "numpy"),
    "onnxruntime": ("onnx", "onnxruntime", "numpy", "optimum", "torch", "transformers"),
}


def conversion_statement(
    source: Source,
    forms: Sequence[tuple[str, Sequence[Target], Form]],
    *,
    promise: Promise,
    texts: Texts,
    public_texts: bool,
    subjects: Mapping[str, str],
    backend: str,
    export: Export | None = None,
) -> bytes:
    """Return the statement in canonical JSON.

    Args:
        source: what everything was made of.
        forms: file in the bundle, targets and form of each variant, in the bundle's order.
        promise: that was to be kept.
        texts: that variants were calibrated and judged on.
        public_texts: whether whoever compiled declared them to hold nobody's private data.
        subjects: the bundle's model files, name to SHA-256.
        backend: that runs them.
        export: of the source's weights, where they were exported here.
    """
    files: dict[str, JsonValue] = dict(source.digests)
    variants: list[JsonValue] = [
        {
            "file": file,
            "targets": [_target(target) for target in targets],
            "label": form.label,
            "plan": form.plan,
            "quality": None if form.quality is None else form.quality.to_dict(),
        }
        for file, targets, form in forms
    ]
    predicate: dict[str, JsonValue] = {
        "format": CONVERSION_FORMAT,
        "source": {
            "kind": source.kind,
            "model_type": source.model_type,
            "files": files,
        },
        "variants": variants,
        "promise": promise.to_dict(),
        "texts": {
            "sha256": texts.sha256,
            "built_in": texts.built_in,
            "lines": len(texts.lines),
            "labelled": texts.labels is not None,
            "public": texts.built_in or public_texts,
        },
        "export": None if export is None else export.to_dict(),
        "tools": tools(backend),
    }
    return encode_statement(CONVERSION_TYPE, subjects, predicate)


def tools(backend: str) -> dict[str, JsonValue]:
    """Return the versions of what makes model files for a backend, by distribution."""
    found: dict[str, JsonValue] = {"casemate": __version__}
    for name in _TOOLS[backend]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _target(target: Target) -> dict[str, JsonValue]:
    """What of a target decides a file; of the detected one, the measured figures do not."""
    return {"arch": target.arch, "level": target.level}
