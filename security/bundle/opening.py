"""The verified opening: the one function through which a bundle becomes usable.

`open_bundle` returns content that somebody trusted signed, in memory that nobody can
change, or it raises. Verify, then parse, then use: no byte of a model, a manifest or
even the signed statement is interpreted before both signatures hold, and no file is
opened a second time.

What it refuses has a stable word (`BundleError.reason`); docs/formats/bundle.md lists
them all, with the rules behind them.

`open_unsigned` exists for the one job that must come before signing: recording the
probes that the signature will cover. Never serve from it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from security.bundle.content import (
    ModelSummary,
    OnStep,
    Step,
    VerifiedFile,
    examine,
)
from security.bundle.manifest import BundleManifest
from security.bundle.tree import OpenLimits, list_tree, opened_root, read_small, seal_file
from security.errors import BundleError, SignatureError
from security.signing import dsse, mldsa, oms
from security.signing.names import SIDECAR_NAME, SIGNATURE_NAME, SIGNATURE_NAMES, printable
from security.signing.signers import SignerKeys, Trust

__all__ = [
    "OpenLimits",
    "SignerKeys",
    "Step",
    "Trust",
    "VerifiedBundle",
    "VerifiedFile",
    "open_bundle",
    "open_unsigned",
]

DEFAULT_LIMITS = OpenLimits()


def _ignore(_: Step) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle that has passed every check; a context manager that closes its files.

    Attributes:
        manifest: the validated bundle.json.
        digest: the statement's subject digest, 64 hexadecimal digits: the bundle's identity.
        signer: the name of the trusted signer; "" from `open_unsigned`.
        files: every file but the two signatures, by name.
        signatures: the verified signature files' content, by name; empty if unsigned.
        summaries: what the pre-parser found, by variant id.
    """

    manifest: BundleManifest
    digest: str
    signer: str
    files: Mapping[str, VerifiedFile]
    signatures: Mapping[str, bytes]
    summaries: Mapping[str, ModelSummary]
    _closing: ExitStack = field(repr=False, compare=False)

    def keep_variant(self, variant_id: str) -> Self:
        """Return the bundle without the content of every other variant's model.

        All of it was checked; an appliance runs one variant, and the others need not lie
        in its memory. What was let go is known by its digest alone. This object must not
        be used any more, but to be closed.
        """
        others = {v.file for v in self.manifest.variants if v.id != variant_id}
        files = dict(self.files)
        with Path(os.devnull).open("rb") as nothing:
            for name in others:
                if files[name].fd >= 0:
                    # Replaced, not closed: the number stays this bundle's until it closes.
                    os.dup2(nothing.fileno(), files[name].fd, inheritable=False)
                    files[name] = replace(files[name], fd=-1)
        return replace(self, files=MappingProxyType(files))

    def close(self) -> None:
        """Close all descriptors; the content is gone once nobody else holds one."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_bundle(
    path: Path,
    trust: Trust,
    *,
    now: datetime | None = None,
    minimum_epoch: int = 0,
    limits: OpenLimits = DEFAULT_LIMITS,
    on_step: OnStep = _ignore,
) -> VerifiedBundle:
    """Verify the bundle at `path` and return its content, or raise.

    Args:
        path: the bundle's directory.
        trust: who may have signed it.
        now: the time to judge expiry by; an aware datetime, the clock's by default.
        minimum_epoch: the lowest acceptable security epoch.
        limits: what this may cost.
        on_step: called after each step that passed, for a progress report.

    Raises:
        SignatureError: it is not signed by somebody trusted, or what was signed is
            not a statement of this format.
        UnsafeModelError: a pre-parser refused a model file.
        BundleError: any other rule is broken.
        SecurityError: this kernel cannot open files safely.
    """
    with ExitStack() as stack:
        # (1) The directory. (docs/formats/bundle.md, section 6, has the same numbers.)
        root_fd = stack.enter_context(opened_root(path))
        on_step(Step.DIRECTORY)
        # (2) Both signature files, whole and bounded.
        signatures = read_signatures(root_fd, limits)
        on_step(Step.SIGNATURE_FILES)
        # (3) to (7) From bytes of strangers to a statement of a trusted signer.
        statement, signer = verify_signatures(signatures, trust, limits, on_step)
        # (8) The directory holds what was signed, and nothing else.
        list_tree(root_fd, limits, frozenset(statement.resources) | SIGNATURE_NAMES)
        on_step(Step.TREE)
        # (9) Each file: opened once, copied, hashed, sealed, compared.
        closing = stack.enter_context(ExitStack())
        files = seal_files(root_fd, statement.resources, limits, closing)
        on_step(Step.DIGESTS)
        # (10) to (14) Only now is content interpreted.
        examined = examine(
            files, now=now or datetime.now(UTC), minimum_epoch=minimum_epoch, on_step=on_step
        )
        return VerifiedBundle(
            manifest=examined.manifest,
            digest=statement.digest,
            signer=signer.name,
            files=files,
            signatures=MappingProxyType(signatures),
            summaries=examined.summaries,
            _closing=closing.pop_all(),
        )


def open_unsigned(path: Path, *, limits: OpenLimits = DEFAULT_LIMITS) -> VerifiedBundle:
    """Open a bundle of one's own, before it is signed. For recording probes, never for serving.

    The same strict reading of the directory, the same sealed memory, manifest rules
    and pre-parsers; signature files, if any, are left out unread.

    Raises:
        BundleError: any rule but those of signatures and expiry is broken.
    """
    with ExitStack() as stack:
        root_fd = stack.enter_context(opened_root(path))
        names = list_tree(root_fd, limits, None) - SIGNATURE_NAMES
        closing = stack.enter_context(ExitStack())
        files = seal_files(root_fd, dict.fromkeys(names), limits, closing)
        dawn = datetime.min.replace(tzinfo=UTC)
        examined = examine(files, now=dawn, minimum_epoch=0, on_step=_ignore)
        digest = oms.subject_digest({name: file.sha256 for name, file in files.items()})
        return VerifiedBundle(
            manifest=examined.manifest,
            digest=digest,
            signer="",
            files=files,
            signatures=MappingProxyType({}),
            summaries=examined.summaries,
            _closing=closing.pop_all(),
        )


def verify_signatures(
    signatures: Mapping[str, bytes], trust: Trust, limits: OpenLimits, on_step: OnStep = _ignore
) -> tuple[oms.Statement, SignerKeys]:
    """Return what was signed and by whom, from the two signature files' content.

    Raises:
        SignatureError: see `open_bundle`.
    """
    # (3) The envelope's form. Nothing in it is trusted yet.
    envelope = oms.parse_signature(signatures[SIGNATURE_NAME], max_bytes=limits.max_signature_bytes)
    on_step(Step.ENVELOPE)
    # (4) Its key hint only selects which trusted keys to try.
    signer = trust.find(envelope.hint)
    if signer is None:
        raise SignatureError("unknown-signer", "model.sig is by a key that is not trusted here")
    on_step(Step.SIGNER)
    # (5) ECDSA over the DSSE encoding.
    if not dsse.verifies(signer.ecdsa, envelope.ecdsa, envelope.payload):
        raise SignatureError("bad-signature", f"model.sig is not by signer {signer.name!r}")
    on_step(Step.ECDSA)
    # (6) ML-DSA-65 over the same bytes, by the same signer.
    if not mldsa.verifies(signer.mldsa65, signatures[SIDECAR_NAME], envelope.payload):
        raise SignatureError(
            "bad-sidecar", f"{SIDECAR_NAME} is not signer {signer.name!r}'s over the same content"
        )
    on_step(Step.MLDSA65)
    # (7) The statement, now that somebody trusted stands behind its bytes.
    statement = oms.parse_statement(envelope.payload, max_files=limits.max_files)
    on_step(Step.STATEMENT)
    return statement, signer


def seal_files(
    root_fd: int,
    digests: Mapping[str, str | None],
    limits: OpenLimits,
    closing: ExitStack,
) -> Mapping[str, VerifiedFile]:
    """Copy files into sealed memory, and compare each with its digest unless that is None.

    Descriptors are registered with `closing`.

    Raises:
        BundleError: "digest-mismatch", "oversized", or what `tree.seal_file` refuses.
    """
    files: dict[str, VerifiedFile] = {}
    left = limits.max_total_bytes
    for name, expected in digests.items():
        copy = seal_file(root_fd, name, min(limits.max_file_bytes, left))
        closing.callback(os.close, copy.fd)
        left -= copy.size_bytes
        if expected is not None and not hmac.compare_digest(copy.sha256, expected):
            raise BundleError("digest-mismatch", f"{printable(name)} is not what was signed")
        files[name] = VerifiedFile(name, copy.size_bytes, copy.sha256, copy.fd)
    return MappingProxyType(files)


def read_signatures(root_fd: int, limits: OpenLimits) -> dict[str, bytes]:
    """Return both signature files' content by name, unverified.

    Raises:
        SignatureError: "unsigned" or "no-sidecar".
        BundleError: as `tree.read_small`.
    """
    found: dict[str, bytes] = {}
    for name, reason in ((SIGNATURE_NAME, "unsigned"), (SIDECAR_NAME, "no-sidecar")):
        try:
            found[name] = read_small(root_fd, name, limits.max_signature_bytes)
        except BundleError as error:
            if error.reason != "missing-file":
                raise
            raise SignatureError(reason, f"{name} is missing: sign with 'casemate sign'") from error
    return found
