"""bundle.json: what a bundle says about itself.

The bytes must be the canonical JSON (RFC 8785) of exactly the fields below: no
unknown key, no missing key, no second spelling of the same manifest. Semantic
version and security epoch are separate on purpose: the version names a release,
the epoch is the anti-rollback floor.

Refuses anything out of range with a `BundleError` that names the field. It never
looks at other files; `security.bundle.opening` does, after the signatures hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from security.bundle.fields import FieldError, Fields
from security.errors import BundleError
from security.strictjson import JsonValue, StrictJsonError, canonical, parse

FORMAT: Final = "casemate.bundle/1"
MANIFEST_NAME: Final = "bundle.json"
MAX_MANIFEST_BYTES: Final = 1 << 20

TASKS: Final = ("generate", "embed", "classify", "tensor")
LLAMA_CPP: Final = "llama.cpp"
ONNXRUNTIME: Final = "onnxruntime"
MODEL_FILES: Final = {LLAMA_CPP: "model.gguf", ONNXRUNTIME: "model.onnx"}
TOKENIZER_FILE: Final = "tokenizer/tokenizer.json"

MAX_VARIANTS: Final = 32
MAX_LABELS: Final = 4096
MAX_CONTEXT_TOKENS: Final = 1 << 22
MAX_SEQUENCES: Final = 4096
MAX_TEXT_CHARS: Final = 200_000
MAX_EPOCH: Final = 2**31 - 1

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VARIANT_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
CPU_LEVEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# https://semver.org, "is there a suggested regular expression"; ASCII digits only.
SEMVER: Final = re.compile(
    r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)
MAX_VERSION_CHARS: Final = 64
INSTANT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled form of the model.

    Attributes:
        id: its name in the bundle.
        backend: what runs it, "llama.cpp" or "onnxruntime".
        file: `variants/<id>/model.gguf` or `variants/<id>/model.onnx`.
        cpu: the processor level that it needs, or None where any will do. Which levels
            there are is for the appliance to know: one that it does not know is one that
            it does not have.
    """

    id: str
    backend: str
    file: str
    cpu: str | None = None

    @classmethod
    def of(cls, variant_id: str, backend: str, cpu: str | None = None) -> Variant:
        """Return the variant with the file name that the format prescribes."""
        return cls(variant_id, backend, f"variants/{variant_id}/{MODEL_FILES[backend]}", cpu)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The tokenizer file of a model whose own file carries none."""

    kind: str = "huggingface"
    file: str = TOKENIZER_FILE


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """Capacity the model was built for, in tokens and sequences."""

    context_tokens: int
    max_sequences: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token texts that the chat template may use."""

    bos: str | None = None
    eos: str | None = None


@dataclass(frozen=True, slots=True)
class ServingDefaults:
    """What a request that leaves a sampling field unset gets. All neutral but max_tokens."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoder:
    """How hidden states become one vector (dim floats), or one of `labels`."""

    pooling: str
    normalize: bool
    dim: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """A validated bundle.json; `created` and `not_after` are aware, UTC, whole seconds."""

    name: str
    version: str
    security_epoch: int
    task: str
    created: datetime
    variants: tuple[Variant, ...]
    limits: BundleLimits
    not_after: datetime | None = None
    license: str | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)
    serving_defaults: ServingDefaults = field(default_factory=ServingDefaults)
    encoder: Encoder | None = None


def parse_manifest(data: bytes) -> BundleManifest:
    """Return the manifest that `data` encodes.

    Raises:
        BundleError: reason "manifest-json" (not strict JSON), "manifest-field" (a
            field is missing, unknown or unacceptable; the message names it) or
            "manifest-not-canonical" (another spelling of an acceptable manifest).
    """
    try:
        value = parse(data, max_bytes=MAX_MANIFEST_BYTES, max_depth=8)
    except StrictJsonError as error:
        raise BundleError("manifest-json", f"{MANIFEST_NAME}: {error}") from error
    try:
        manifest = _manifest(Fields(value, "bundle"))
        if canonical(_document(manifest)) != data:
            raise BundleError(
                "manifest-not-canonical",
                f"{MANIFEST_NAME} is not canonical JSON (RFC 8785); write it with 'bundle create'",
            )
    except (FieldError, StrictJsonError) as error:
        raise BundleError("manifest-field", f"{MANIFEST_NAME}: {error}") from error
    return manifest


def encode_manifest(manifest: BundleManifest) -> bytes:
    """Return the one valid encoding of `manifest`, checked by reading it back.

    Raises:
        BundleError: a value of `manifest` is not acceptable.
    """
    try:
        data = canonical(_document(manifest))
    except StrictJsonError as error:
        raise BundleError("manifest-field", f"{MANIFEST_NAME}: {error}") from error
    parse_manifest(data)
    return data


def _manifest(top: Fields) -> BundleManifest:
    top.constant("format", FORMAT)
    manifest = BundleManifest(
        name=top.text("name", NAME),
        version=top.text("version", SEMVER, max_chars=MAX_VERSION_CHARS),
        security_epoch=top.integer("security_epoch", 0, MAX_EPOCH),
        task=top.choice("task", TASKS),
        created=_instant(top, "created"),
        not_after=None if top.is_null("not_after") else _instant(top, "not_after"),
        license=top.optional_text("license", max_chars=MAX_TEXT_CHARS),
        variants=tuple(_variant(item) for item in top.nested_list("variants", 1, MAX_VARIANTS)),
        tokenizer=_tokenizer(top),
        limits=_limits(top.nested("limits")),
        chat_template=top.optional_text("chat_template", max_chars=MAX_TEXT_CHARS),
        special_tokens=_special_tokens(top.nested("special_tokens")),
        serving_defaults=_serving_defaults(top.nested("serving_defaults")),
        encoder=None if top.is_null("encoder") else _encoder(top.nested("encoder")),
    )
    top.done()
    _check_together(manifest)
    return manifest


def _variant(item: Fields) -> Variant:
    variant_id = item.text("id", VARIANT_ID)
    backend = item.choice("backend", tuple(MODEL_FILES))
    cpu = None
    if item.has("requires"):
        requires = item.nested("requires")
        cpu = requires.text("cpu", CPU_LEVEL)
        requires.done()
    variant = Variant.of(variant_id, backend, cpu)
    item.constant("file", variant.file)
    item.done()
    return variant


def _tokenizer(top: Fields) -> Tokenizer | None:
    if top.is_null("tokenizer"):
        return None
    item = top.nested("tokenizer")
    item.constant("kind", "huggingface")
    item.constant("file", TOKENIZER_FILE)
    item.done()
    return Tokenizer()


def _limits(item: Fields) -> BundleLimits:
    context = item.integer("context_tokens", 0, MAX_CONTEXT_TOKENS)
    limits = BundleLimits(
        context_tokens=context,
        max_sequences=item.integer("max_sequences", 1, MAX_SEQUENCES),
        max_output_tokens=item.integer("max_output_tokens", 0, context),
    )
    item.done()
    return limits


def _special_tokens(item: Fields) -> SpecialTokens:
    tokens = SpecialTokens(
        bos=item.optional_text("bos", max_chars=256), eos=item.optional_text("eos", max_chars=256)
    )
    item.done()
    return tokens


def _serving_defaults(item: Fields) -> ServingDefaults:
    """Ranges are those of casemate.v1.Sampling."""
    defaults = ServingDefaults(
        max_tokens=item.integer("max_tokens", 0, MAX_CONTEXT_TOKENS),
        temperature=item.number("temperature", 0.0, 2.0),
        top_k=item.integer("top_k", 0, 2**31 - 1),
        top_p=item.number("top_p", 0.0, 1.0, above_low=True),
        min_p=item.number("min_p", 0.0, 1.0, below_high=True),
        repetition_penalty=item.number("repetition_penalty", 0.0, 2.0, above_low=True),
        presence_penalty=item.number("presence_penalty", -2.0, 2.0),
    )
    item.done()
    return defaults


def _encoder(item: Fields) -> Encoder:
    encoder = Encoder(
        pooling=item.choice("pooling", ("mean", "cls")),
        normalize=item.boolean("normalize"),
        dim=item.integer("dim", 1, 1 << 16),
        labels=item.texts("labels", MAX_LABELS, max_chars=256),
    )
    item.done()
    return encoder


def _check_together(manifest: BundleManifest) -> None:
    """The rules that span fields (bundle.md, section 3.2)."""
    ids = [variant.id for variant in manifest.variants]
    if len(set(ids)) != len(ids):
        raise FieldError("variants: two of them have the same id")
    backend = LLAMA_CPP if manifest.task == "generate" else ONNXRUNTIME
    if any(variant.backend != backend for variant in manifest.variants):
        raise FieldError(f"variants: task {manifest.task!r} needs backend {backend!r} in each")
    if manifest.not_after is not None and manifest.not_after <= manifest.created:
        raise FieldError("not_after: is not later than created")
    encodes = manifest.task in ("embed", "classify")
    if encodes != (manifest.encoder is not None):
        raise FieldError("encoder: embed and classify have one, other tasks have null")
    if encodes != (manifest.tokenizer is not None):
        raise FieldError("tokenizer: embed and classify have one, other tasks have null")
    labels = manifest.encoder.labels if manifest.encoder else ()
    if (manifest.task == "classify") != bool(labels) or len(set(labels)) != len(labels):
        raise FieldError("encoder.labels: distinct, present for classify, empty otherwise")
    if manifest.task != "tensor" and manifest.limits.context_tokens < 1:
        raise FieldError("limits.context_tokens: a model of text needs at least 1")
    _check_generation(manifest)


def _check_generation(manifest: BundleManifest) -> None:
    if manifest.task == "generate":
        longest = manifest.limits.max_output_tokens
        if not 1 <= manifest.serving_defaults.max_tokens <= longest:
            raise FieldError("serving_defaults.max_tokens: from 1 to limits.max_output_tokens")
    elif manifest.chat_template is not None:
        raise FieldError("chat_template: only a model of task 'generate' has one")


def _instant(fields: Fields, name: str) -> datetime:
    text = fields.text(name, INSTANT)
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise FieldError(f"{name}: no such date or time") from error


def _rfc3339(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _variant_document(variant: Variant) -> dict[str, JsonValue]:
    """A variant as JSON values; without a requirement it has no key for one."""
    document: dict[str, JsonValue] = {
        "id": variant.id,
        "backend": variant.backend,
        "file": variant.file,
    }
    if variant.cpu is not None:
        document["requires"] = {"cpu": variant.cpu}
    return document


def _document(m: BundleManifest) -> JsonValue:
    """The manifest as JSON values; the inverse of `_manifest`."""
    d = m.serving_defaults
    return {
        "format": FORMAT,
        "name": m.name,
        "version": m.version,
        "security_epoch": m.security_epoch,
        "task": m.task,
        "created": _rfc3339(m.created),
        "not_after": _rfc3339(m.not_after),
        "license": m.license,
        "variants": [_variant_document(variant) for variant in m.variants],
        "tokenizer": None
        if m.tokenizer is None
        else {"kind": m.tokenizer.kind, "file": m.tokenizer.file},
        "limits": {
            "context_tokens": m.limits.context_tokens,
            "max_sequences": m.limits.max_sequences,
            "max_output_tokens": m.limits.max_output_tokens,
        },
        "chat_template": m.chat_template,
        "special_tokens": {"bos": m.special_tokens.bos, "eos": m.special_tokens.eos},
        "serving_defaults": {
            "max_tokens": d.max_tokens,
            "temperature": d.temperature,
            "top_k": d.top_k,
            "top_p": d.top_p,
            "min_p": d.min_p,
            "repetition_penalty": d.repetition_penalty,
            "presence_penalty": d.presence_penalty,
        },
        "encoder": None
        if m.encoder is None
        else {
            "pooling": m.encoder.pooling,
            "normalize": m.encoder.normalize,
            "dim": m.encoder.dim,
            "labels": list(m.encoder.labels),
        },
    }
