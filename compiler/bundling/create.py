"""Create a bundle directory: plan, write beside the target, check, rename.

The steps, and what a crash or an error after each leaves:

1. plan: nothing has been written.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from compiler.bundling.attesting import digest_of
from compiler.bundling.copying import write_file
from compiler.bundling.plan import Plan, Report
from compiler.bundling.probes import record_probes
from compiler.bundling.sources import plan_source
from compiler.errors import SourceError
from compiler.files import read_text
from security.bundle.attestations import privacy_claim
from security.bundle.manifest import (
    MANIFEST_NAME,
    MAX_TEXT_CHARS,
    TOKENIZER_FILE,
    BundleLimits,
    BundleManifest,
    ServingDefaults,
    Tokenizer,
    Variant,
    encode_manifest,
)
from security.bundle.opening import open_unsigned
from security.files import sync_folder, sync_tree

DEFAULT_CONTEXT_TOKENS = 2048
DEFAULT_SEQUENCES = 16
DEFAULT_ANSWER_TOKENS = 256
VARIANT_ID = "default"
_MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARS
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What the user asked for; None stands for "what the model says"."""

    source: Path
    output: Path
    name: str
    version: str
    task: str | None = None
    security_epoch: int = 1
    license_file: Path | None = None
    chat_template_file: Path | None = None
    chat_template_from_source: bool = False
    context_tokens: int | None = None
    max_sequences: int = DEFAULT_SEQUENCES
    not_after: datetime | None = None
    probes: bool = True


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
    """

    path: Path
    manifest: BundleManifest
    size_bytes: int
    probes: bool
    note: str | None
    attestations: tuple[str, ...] = ()
    left_out: str | None = None


def create_bundle(request: CreateRequest, report: Report) -> CreatedBundle:
    """Create the bundle `request` describes.

    Args:
        request: what to make of what.
        report: is told what is going on, for a progress line.

    Raises:
        UsageError: the source or an option is not usable; names the file.
        BundleError: a value is not allowed in bundle.json, or a model was refused.
        OSError: the target cannot be written.
    """
    if os.path.lexists(request.output):
        raise SourceError(f"{request.output}: exists already; choose another name or remove it")
    report("reading the model")
    plan = plan_source(request.source, request.task)
    manifest = _manifest(request, plan)
    encoded = encode_manifest(manifest)
    with _partial(request.output) as folder:
        model = folder / manifest.variants[0].file
        model.parent.mkdir(parents=True)
        plan.write_model(model, report)
        if plan.tokenizer is not None:
            (folder / TOKENIZER_FILE).parent.mkdir()
            write_file(folder / TOKENIZER_FILE, plan.tokenizer)
        write_file(folder / MANIFEST_NAME, encoded)
        attestations = _attest(folder, manifest, plan)
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
    return CreatedBundle(
        request.output, manifest, size, note is None, note, attestations, plan.note
    )


def _attest(folder: Path, manifest: BundleManifest, plan: Plan) -> tuple[str, ...]:
    """Write what the source's records state of the model file; return the names."""
    if plan.records is None:
        return ()
    subjects = {variant.file: digest_of(folder / variant.file) for variant in manifest.variants}
    statements = plan.records.statements(subjects)
    (folder / "attestations").mkdir()
    for name, data in statements.items():
        write_file(folder / name, data)
    return tuple(sorted(statements))


@contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `output`; remove it unless it was renamed."""
    parent = output.absolute().parent
    if not parent.is_dir():
        raise SourceError(f"{parent}: there is no such folder to put the bundle in")
    folder = parent / f".{output.name}.{secrets.token_hex(6)}.partial"
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


def _manifest(request: CreateRequest, plan: Plan) -> BundleManifest:
    context = _context(request, plan)
    answer = context if plan.task == "generate" else 0
    return BundleManifest(
        name=request.name,
        version=request.version,
        security_epoch=request.security_epoch,
        task=plan.task,
        created=_created(),
        not_after=request.not_after,
        license=_license(request, plan),
        variants=(Variant.of(VARIANT_ID, plan.backend),),
        tokenizer=Tokenizer() if plan.tokenizer is not None else None,
        limits=BundleLimits(context, request.max_sequences, answer),
        chat_template=_chat_template(request, plan),
        special_tokens=plan.special_tokens,
        serving_defaults=ServingDefaults(max_tokens=min(DEFAULT_ANSWER_TOKENS, answer)),
        encoder=plan.encoder,
    )


def _context(request: CreateRequest, plan: Plan) -> int:
    asked = request.context_tokens
    if plan.task == "tensor":
        if asked is not None:
            raise SourceError("--context: a graph of plain tensors has no context")
        return 0
    if asked is None:
        return min(plan.context_tokens, DEFAULT_CONTEXT_TOKENS)
    if not 1 <= asked <= plan.context_tokens:
        raise SourceError(
            f"--context {asked}: {plan.origin} takes from 1 to {plan.context_tokens} tokens"
        )
    return asked


def _license(request: CreateRequest, plan: Plan) -> str | None:
    if request.license_file is None:
        return plan.license
    return read_text(request.license_file, _MAX_TEXT_BYTES)


def _chat_template(request: CreateRequest, plan: Plan) -> str | None:
    if request.chat_template_file is not None:
        return read_text(request.chat_template_file, _MAX_TEXT_BYTES)
    if not request.chat_template_from_source:
        return None
    if plan.chat_template is None:
        raise SourceError(f"{plan.origin}: brings no chat template; give one with --chat-template")
    return plan.chat_template


def _created() -> datetime:
    """Now, or SOURCE_DATE_EPOCH for a build that is to be repeated bit by bit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(given), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise SourceError("SOURCE_DATE_EPOCH is not a number of seconds") from error
