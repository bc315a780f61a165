"""The verification of a signed checkpoint.

Verify, then parse: nothing is interpreted before both signatures hold, each file is
opened once, and the bytes of `training.json` that are parsed are the bytes that were
hashed. Other files are hashed and not kept: weights may be larger than memory. So this
says what the directory held while it was read; whoever may write to it later can change
it again. (An appliance does not use checkpoints. It opens bundles, into sealed memory.)
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from security.bundle import content
from security.bundle.manifest import MANIFEST_NAME
from security.bundle.opening import DEFAULT_LIMITS, read_signatures, verify_signatures
from security.bundle.tree import OpenLimits, list_tree, open_file, opened_root, read_small
from security.checkpoint.layout import MAX_RECORD_BYTES, RECORD_NAME, check_names, check_record
from security.errors import BundleError
from security.signing.names import SIGNATURE_NAMES, printable
from security.signing.signers import Trust

_CHUNK_BYTES: Final = 4 << 20


class Step(Enum):
    """The steps, in order; the value is the rule. The first nine are those of bundles."""

    DIRECTORY = "the checkpoint is a directory, not reached by a link at its end"
    SIGNATURE_FILES = "model.sig and model.sig.mldsa65 are there, regular and bounded"
    ENVELOPE = "model.sig is an OMS v1.0 signature made with a key"
    SIGNER = "the key belongs to a trusted signer"
    ECDSA = "the ECDSA signature holds"
    MLDSA65 = "the ML-DSA-65 signature of the same signer holds"
    STATEMENT = "the signed statement is acceptable"
    TREE = "the directory holds exactly the signed files"
    DIGESTS = "every file has its signed digest"
    LAYOUT = "every file has a place in a checkpoint"
    RECORD = "training.json names the files that are there"


OnStep: TypeAlias = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """What was verified.

    Attributes:
        name: as `training.json` states it.
        digest: the statement's subject digest: the checkpoint's identity.
        signer: the name of the trusted signer.
        files: SHA-256 (hexadecimal) of every file but the signatures, by name.
    """

    name: str
    digest: str
    signer: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """Digests and total size of files, and the bytes of the record among them."""

    digests: Mapping[str, str]
    size_bytes: int
    record: bytes


def _ignore(_: Step) -> None:
    """Nobody watches."""


def is_checkpoint(path: Path) -> bool:
    """Tell a checkpoint from a bundle, by names alone; says nothing of whether it is one."""
    return os.path.lexists(path / RECORD_NAME) and not os.path.lexists(path / MANIFEST_NAME)


def verify_checkpoint(
    path: Path,
    trust: Trust,
    *,
    limits: OpenLimits = DEFAULT_LIMITS,
    on_step: OnStep = _ignore,
) -> VerifiedCheckpoint:
    """Verify the checkpoint at `path`, or raise.

    Args:
        path: the directory.
        trust: who may have signed it.
        limits: what this may cost.
        on_step: called after each step that passed.

    Raises:
        SignatureError: it is not signed by somebody trusted.
        BundleError: any other rule of docs/formats/checkpoint.md is broken.
    """

    def passed(step: content.Step) -> None:
        on_step(Step[step.name])

    # (1) The directory. (docs/formats/checkpoint.md, section 4, has the same numbers.)
    with opened_root(path) as root_fd:
        on_step(Step.DIRECTORY)
        # (2) Both signature files, whole and bounded.
        signatures = read_signatures(root_fd, limits)
        on_step(Step.SIGNATURE_FILES)
        # (3) to (7) From bytes of strangers to a statement of a trusted signer.
        statement, signer = verify_signatures(signatures, trust, limits, passed)
        # (8) The directory holds what was signed, and nothing else.
        list_tree(root_fd, limits, frozenset(statement.resources) | SIGNATURE_NAMES)
        on_step(Step.TREE)
        # (9) Each file: opened once, hashed, compared.
        files = read_files(root_fd, frozenset(statement.resources), limits)
        for name, digest in files.digests.items():
            if not hmac.compare_digest(digest, statement.resources[name]):
                raise BundleError("digest-mismatch", f"{printable(name)} is not what was signed")
        on_step(Step.DIGESTS)
    # (10), (11) Only now is content interpreted.
    name = examine(files, on_step)
    return VerifiedCheckpoint(name, statement.digest, signer.name, files.digests)


def read_files(root_fd: int, names: frozenset[str], limits: OpenLimits) -> ReadFiles:
    """Open each file once and hash it.

    Raises:
        BundleError: what `tree.open_file` refuses; "changed" when one is written to
            meanwhile; "oversized".
    """
    digests: dict[str, str] = {}
    record = b""
    left = limits.max_total_bytes
    for name in sorted(names):
        allowed = min(limits.max_file_bytes, left)
        if name == RECORD_NAME:
            record = read_small(root_fd, name, min(MAX_RECORD_BYTES, allowed))
            digests[name], size = hashlib.sha256(record).hexdigest(), len(record)
        else:
            digests[name], size = _digest(root_fd, name, allowed)
        left -= size
    return ReadFiles(MappingProxyType(digests), limits.max_total_bytes - left, record)


def examine(files: ReadFiles, on_step: OnStep = _ignore) -> str:
    """Judge files that were read; return the checkpoint's name. Shared with signing.

    Raises:
        BundleError: see `layout`.
    """
    check_names(frozenset(files.digests))
    on_step(Step.LAYOUT)
    name = check_record(
        files.record, {file: d for file, d in files.digests.items() if file != RECORD_NAME}
    )
    on_step(Step.RECORD)
    return name


def _digest(root_fd: int, name: str, max_bytes: int) -> tuple[str, int]:
    fd, size = open_file(root_fd, name, max_bytes)
    hasher = hashlib.sha256()
    count = 0
    try:
        with os.fdopen(fd, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
                count += len(chunk)
                if count > size:
                    break
    except OSError as error:
        raise BundleError("unreadable", f"{printable(name)}: {error.strerror}") from error
    if count != size:
        raise BundleError("changed", f"{printable(name)}: it changed while it was read")
    return hasher.hexdigest(), size
