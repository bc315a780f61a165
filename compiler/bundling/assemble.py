"""Put a bundle together: write beside the target, check, record probes, rename.

The steps, and what a crash or an error after each leaves:

1. the manifest is made and encoded: nothing has been written.
2. write everything into a hidden folder beside the target, readable to nobody else:
   an error removes it; a crash leaves `.NAME.*.partial`, which nothing reads.
3. open the folder as strictly as an appliance would, less the signatures.
4. record the probes, if asked for, by running the bundle once in a sandboxed worker.
5. rename it to the target: the bundle is there, whole.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compiler.bundling.copying import write_file
from compiler.bundling.plan import Plan, Report
from compiler.bundling.probes import record_probes
from compiler.bundling.request import CreateRequest, manifest_of
from compiler.errors import SourceError
from compiler.files import digest_of
from security.bundle.attestations import privacy_claim
from security.bundle.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FILE,
    BundleManifest,
    Variant,
    encode_manifest,
)
from security.bundle.opening import open_unsigned
from security.files import sync_folder, sync_tree

_FILE_MODE, _FOLDER_MODE = 0o644, 0o755

# Given the model files, name to SHA-256: further statements about them, by file name.
Statements = Callable[[Mapping[str, str]], Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class VariantSource:
    """A variant to be: its id, what processor it needs, and what writes its model."""

    id: str
    write: Callable[[Path, Report], None]
    cpu: str | None = None


@dataclass(frozen=True, slots=True)
class CreatedBundle:
    """What came of it.

    Attributes:
        path: the bundle's directory.
        manifest: its bundle.json.
        size_bytes: all its files together.
        probes: whether golden requests were recorded.
        note: why they were not, or None.
        attestations: names of the statements about its model.
        left_out: a record beside the source that did not become one, or None.
        notes: what an export changed, for a person.
    """

    path: Path
    manifest: BundleManifest
    size_bytes: int
    probes: bool
    note: str | None
    attestations: tuple[str, ...] = ()
    left_out: str | None = None
    notes: tuple[str, ...] = ()


def require_free(output: Path) -> None:
    """Refuse an output that exists, or that has no folder to lie in.

    Raises:
        SourceError: names it and says what to do.
    """
    if os.path.lexists(output):
        raise SourceError(f"{output}: exists already; choose another name or remove it")
    if not output.absolute().parent.is_dir():
        raise SourceError(f"{output.absolute().parent}: there is no such folder to put it in")


def assemble(
    request: CreateRequest,
    plan: Plan,
    variants: Sequence[VariantSource],
    report: Report,
    statements: Statements | None = None,
) -> CreatedBundle:
    """Make the bundle `request` describes of a plan and its variants, fastest first.

    Args:
        request: what the user asked for.
        plan: what the model says of itself.
        variants: at least one.
        report: is told what is going on, for a progress line.
        statements: makes attestations besides those of the source's own records.

    Raises:
        UsageError: the source or an option is not usable; names the file.
        BundleError: a value is not allowed in bundle.json, or a model was refused.
        OSError: the target cannot be written.
    """
    require_free(request.output)
    listed = [Variant.of(one.id, plan.backend, one.cpu) for one in variants]
    manifest = manifest_of(request, plan, listed)
    encoded = encode_manifest(manifest)
    with partial_folder(request.output) as folder:
        for variant, source in zip(listed, variants, strict=True):
            model = folder / variant.file
            model.parent.mkdir(parents=True)
            source.write(model, report)
        if plan.tokenizer is not None:
            (folder / TOKENIZER_FILE).parent.mkdir()
            write_file(folder / TOKENIZER_FILE, plan.tokenizer)
        write_file(folder / MANIFEST_NAME, encoded)
        attestations = _attest(folder, manifest, plan, statements)
        _normalize_modes(folder)
        report("checking the bundle")
        with open_unsigned(folder) as made:
            privacy_claim(made.files, made.manifest)
        note: str | None = "left out on request"
        if request.probes:
            note = record_probes(folder, plan.origin, report)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        sync_tree(folder)
        folder.rename(request.output)
        sync_folder(request.output.absolute().parent)
    notes = plan.export.notes if plan.export is not None else ()
    return CreatedBundle(
        request.output, manifest, size, note is None, note, attestations, plan.note, notes
    )


def _attest(
    folder: Path, manifest: BundleManifest, plan: Plan, statements: Statements | None
) -> tuple[str, ...]:
    """Write what is stated of the model files; return the names."""
    subjects = {variant.file: digest_of(folder / variant.file) for variant in manifest.variants}
    made = dict(plan.records.statements(subjects)) if plan.records is not None else {}
    if statements is not None:
        made |= statements(subjects)
    if made:
        (folder / "attestations").mkdir()
    for name, data in made.items():
        write_file(folder / name, data)
    return tuple(sorted(made))


@contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `output`; remove it unless it was renamed."""
    folder = output.absolute().parent / f".{output.name}.{secrets.token_hex(6)}.partial"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _normalize_modes(folder: Path) -> None:
    """Give files and folders the modes that a bundle has, whatever the umask was."""
    folder.chmod(_FOLDER_MODE)
    for path in folder.rglob("*"):
        path.chmod(_FOLDER_MODE if path.is_dir() else _FILE_MODE)
