"""What a bundle holds, once it is in sealed memory: files, layout, dates, models.

Nothing here reads the file system: every check is on the sealed copies, so what
passes is what will be used. `examine` is shared by opening and signing, which is
why a bundle that opening would refuse cannot be signed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeAlias

from security.bundle.manifest import (
    LLAMA_CPP,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    BundleManifest,
    parse_manifest,
)
from security.errors import BundleError
from security.preparse import GgufSummary, OnnxSummary, check_gguf, check_onnx
from security.signing.names import printable

PROBES_NAME: Final = "probes.jsonl"
ATTESTATION: Final = re.compile(r"attestations/[A-Za-z0-9_][A-Za-z0-9._-]*\.json")
MAX_ATTESTATIONS: Final = 64
MAX_READ_BYTES: Final = 64 << 20

ModelSummary: TypeAlias = GgufSummary | OnnxSummary


class Step(Enum):
    """The steps of the verified opening, in order; the value is the rule it enforces."""

    DIRECTORY = "the bundle is a directory, not reached by a link at its end"
    SIGNATURE_FILES = "model.sig and model.sig.mldsa65 are there, regular and bounded"
    ENVELOPE = "model.sig is an OMS v1.0 signature made with a key"
    SIGNER = "the key belongs to a trusted signer"
    ECDSA = "the ECDSA signature holds"
    MLDSA65 = "the ML-DSA-65 signature of the same signer holds"
    STATEMENT = "the signed statement is acceptable"
    TREE = "the directory holds exactly the signed files"
    DIGESTS = "every file has its signed digest"
    MANIFEST = "bundle.json is valid and canonical"
    LAYOUT = "every file has a place in the format"
    FRESHNESS = "the bundle has not expired"
    EPOCH = "the security epoch is not lower than required"
    MODELS = "the model files pass the pre-parsers"


OnStep: TypeAlias = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """One file of a bundle in sealed memory.

    Attributes:
        name: its name in the bundle.
        size_bytes: its size.
        sha256: its digest, hexadecimal.
        fd: a read-only, close-on-exec descriptor of a memory file that nobody can
            change; it belongs to the bundle, which closes it. -1 once the content was let
            go (`VerifiedBundle.keep_variant`): what was checked is then known by its
            digest alone.
    """

    name: str
    size_bytes: int
    sha256: str
    fd: int

    def read(self, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return the whole content.

        Raises:
            BundleError: "oversized": it has more than `max_bytes`; "released": it was
                let go.
        """
        if self.fd < 0:
            raise BundleError("released", f"{printable(self.name)} was let go after its check")
        if self.size_bytes > max_bytes:
            raise BundleError(
                "oversized",
                f"{printable(self.name)} has {self.size_bytes} bytes, more than {max_bytes}",
            )
        parts: list[bytes] = []
        offset = 0
        while part := os.pread(self.fd, self.size_bytes - offset, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Examined:
    """The outcome of `examine`: the manifest, and each variant's summary by id."""

    manifest: BundleManifest
    summaries: Mapping[str, ModelSummary]


def examine(
    files: Mapping[str, VerifiedFile], *, now: datetime, minimum_epoch: int, on_step: OnStep
) -> Examined:
    """Judge the sealed files of a bundle: steps MANIFEST to MODELS.

    Raises:
        BundleError: the first rule that is broken.
    """
    if MANIFEST_NAME not in files:
        raise BundleError("missing-file", f"a bundle has a {MANIFEST_NAME}")
    manifest = parse_manifest(files[MANIFEST_NAME].read(MAX_MANIFEST_BYTES))
    on_step(Step.MANIFEST)

    check_layout(manifest, files)
    on_step(Step.LAYOUT)

    if manifest.not_after is not None and now > manifest.not_after:
        raise BundleError(
            "expired", f"the bundle was valid until {manifest.not_after:%Y-%m-%dT%H:%M:%SZ}"
        )
    on_step(Step.FRESHNESS)

    if manifest.security_epoch < minimum_epoch:
        raise BundleError(
            "rollback",
            f"security epoch {manifest.security_epoch} is below the required {minimum_epoch}",
        )
    on_step(Step.EPOCH)

    summaries = {v.id: _preparse(v.backend, files[v.file]) for v in manifest.variants}
    on_step(Step.MODELS)
    return Examined(manifest, MappingProxyType(summaries))


def check_layout(manifest: BundleManifest, names: Iterable[str]) -> None:
    """Require every file that the manifest names, and nothing without a meaning.

    Raises:
        BundleError: "missing-file" or "unknown-file".
    """
    present = set(names)
    required = {MANIFEST_NAME, *(variant.file for variant in manifest.variants)}
    if manifest.tokenizer is not None:
        required.add(manifest.tokenizer.file)
    for name in sorted(required - present):
        raise BundleError("missing-file", f"{MANIFEST_NAME} names {name}, which is not there")
    attestations = {name for name in present if ATTESTATION.fullmatch(name)}
    if len(attestations) > MAX_ATTESTATIONS:
        raise BundleError("too-many-files", f"more than {MAX_ATTESTATIONS} attestations")
    for name in sorted(present - required - attestations - {PROBES_NAME}):
        raise BundleError("unknown-file", f"{printable(name)} has no place in the bundle format")


def _preparse(backend: str, file: VerifiedFile) -> ModelSummary:
    if backend == LLAMA_CPP:
        return check_gguf(file.fd, file.size_bytes)
    return check_onnx(file.fd, file.size_bytes)
