"""`training.json`: where a model comes from, the first link of its chain of custody.

It names what went in (digests of the data and of the parent, the recipe, the seeds), what
did the work (the code's version and digest, the environment), what came out (metrics and
the digest of every other file of the checkpoint) and nothing of the data itself. Being
one of the files that `casemate sign` covers, it is as trustworthy as the signer.

docs/formats/checkpoint.md is normative. Written as canonical JSON (RFC 8785); reading is
strict: a missing, unknown or ill-typed key is refused, so that nobody relies on a record
that means something else to another reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from security.strictjson import StrictJsonError, canonical, parse
from trainer.checkpointing.fields import (
    SHA256,
    TIME,
    array,
    exactly,
    integer,
    mapping,
    number,
    text,
)
from trainer.errors import CheckpointError

RECORD_NAME: Final = "training.json"
RECORD_FORMAT: Final = "casemate.training/1"
MAX_RECORD_BYTES: Final = 16 << 20
_MAX_DEPTH: Final = 6
_ROLES: Final = frozenset({"train", "validation"})
_TOP: Final = frozenset(
    {
        "format",
        "name",
        "created",
        "recipe",
        "data",
        "seeds",
        "steps",
        "metrics",
        "code",
        "environment",
        "parent",
        "files",
    }
)
_ENVIRONMENT: Final = frozenset({"python", "platform", "cpu", "accelerators", "packages", "ranks"})
_FILE: Final = frozenset({"sha256", "bytes"})
_DATA: Final = frozenset({"fingerprint", "sources"})


@dataclass(frozen=True, slots=True)
class Source:
    """One file of data: its last name, digest, size, and what it was used for."""

    name: str
    sha256: str
    size_bytes: int
    role: str


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """What computed: the release, and the digest of the trainer's source files."""

    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Environment:
    """Where it was computed.

    Attributes:
        python: version of the interpreter.
        platform: kernel and machine, as `platform.platform()`.
        cpu: name of the processor.
        accelerators: names of the GPUs of rank 0's machine that took part.
        packages: versions of the libraries that decide results.
        ranks: processes that trained together at the end.
    """

    python: str
    platform: str
    cpu: str
    accelerators: tuple[str, ...]
    packages: Mapping[str, str]
    ranks: int


@dataclass(frozen=True, slots=True)
class Parent:
    """The checkpoint that training started from.

    Attributes:
        weights_sha256: digest of its model.safetensors.
        record_sha256: digest of its training.json; None if it has none.
    """

    weights_sha256: str
    record_sha256: str | None


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """Digest and size of another file of the checkpoint."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """The content of `training.json`.

    Attributes:
        name: of the recipe.
        created: UTC, "YYYY-MM-DDTHH:MM:SSZ".
        recipe_digest: of the values that decide the result.
        recipe: all values by section and key; paths by their last name.
        data_fingerprint: of the training set as it was fed.
        sources: the files of data.
        seeds: by what they seed.
        steps: updates made to what is in the checkpoint.
        metrics: figures of the validation data; below 2^53 in size.
        code: what computed.
        environment: where.
        parent: what training started from; None if from new weights.
        files: every other file of the checkpoint by name; `export_checkpoint` fills it in.
        keyed: whether the digests of data are those of `trainer.checkpointing.keyed`, and
            sizes of files are left at 0: in a private run, both would confirm guesses.
    """

    name: str
    created: str
    recipe_digest: str
    recipe: Mapping[str, Mapping[str, Any]]
    data_fingerprint: str
    sources: Sequence[Source]
    seeds: Mapping[str, int]
    steps: int
    metrics: Mapping[str, float]
    code: CodeVersion
    environment: Environment
    parent: Parent | None = None
    files: Mapping[str, RecordedFile] = field(default_factory=dict)
    keyed: bool = False

    def encode(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            CheckpointError: a value is no JSON, such as a metric that is not finite.
        """
        environment, parent = self.environment, self.parent
        document: dict[str, Any] = {
            "format": RECORD_FORMAT,
            "name": self.name,
            "created": self.created,
            "recipe": {
                "digest": self.recipe_digest,
                "values": {name: dict(values) for name, values in self.recipe.items()},
            },
            "data": {
                "fingerprint": self.data_fingerprint,
                "sources": [
                    {"name": s.name, "sha256": s.sha256, "bytes": s.size_bytes, "role": s.role}
                    for s in self.sources
                ],
                **({"keyed": True} if self.keyed else {}),
            },
            "seeds": dict(self.seeds),
            "steps": self.steps,
            "metrics": dict(self.metrics),
            "code": {"version": self.code.version, "sha256": self.code.sha256},
            "environment": {
                "python": environment.python,
                "platform": environment.platform,
                "cpu": environment.cpu,
                "accelerators": list(environment.accelerators),
                "packages": dict(environment.packages),
                "ranks": environment.ranks,
            },
            "parent": parent
            and {
                "weights_sha256": parent.weights_sha256,
                "record_sha256": parent.record_sha256,
            },
            "files": {
                name: {"sha256": file.sha256, "bytes": file.size_bytes}
                for name, file in self.files.items()
            },
        }
        try:
            return canonical(document)
        except StrictJsonError as error:
            raise CheckpointError(f"{RECORD_NAME} cannot be written: {error}") from error


def read_record(folder: Path) -> TrainingRecord:
    """Read the `training.json` of a checkpoint. It vouches for nothing unless it is signed.

    Raises:
        CheckpointError: it is missing, or breaks a rule of docs/formats/checkpoint.md.
    """
    path = folder / RECORD_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return decode_record(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def decode_record(data: bytes) -> TrainingRecord:
    """Return what the bytes of a `training.json` say.

    Raises:
        CheckpointError: naming the key that breaks a rule.
    """
    try:
        document = parse(data, max_bytes=MAX_RECORD_BYTES, max_depth=_MAX_DEPTH)
    except StrictJsonError as error:
        raise CheckpointError(f"no strict JSON: {error}") from error
    top = exactly(document, _TOP, RECORD_NAME)
    if top["format"] != RECORD_FORMAT:
        raise CheckpointError(f"'format' is not {RECORD_FORMAT!r}, which this version reads")
    if canonical(top) != data:
        raise CheckpointError("no canonical JSON (RFC 8785)")
    recipe = exactly(top["recipe"], frozenset({"digest", "values"}), "recipe")
    content, is_keyed = _data(top["data"])
    code = exactly(top["code"], frozenset({"version", "sha256"}), "code")
    return TrainingRecord(
        name=text(top["name"], "name"),
        created=text(top["created"], "created", TIME),
        recipe_digest=text(recipe["digest"], "recipe.digest", SHA256),
        recipe={
            name: mapping(values, f"recipe.values.{name}")
            for name, values in mapping(recipe["values"], "recipe.values").items()
        },
        data_fingerprint=text(content["fingerprint"], "data.fingerprint"),
        sources=tuple(_source(each) for each in array(content["sources"], "data.sources")),
        seeds={k: integer(v, f"seeds.{k}") for k, v in mapping(top["seeds"], "seeds").items()},
        steps=integer(top["steps"], "steps"),
        metrics={
            k: number(v, f"metrics.{k}") for k, v in mapping(top["metrics"], "metrics").items()
        },
        code=CodeVersion(
            text(code["version"], "code.version"), text(code["sha256"], "code.sha256", SHA256)
        ),
        environment=_environment(top["environment"]),
        parent=None if top["parent"] is None else _parent(top["parent"]),
        files={k: _file(v, f"files.{k}") for k, v in mapping(top["files"], "files").items()},
        keyed=is_keyed,
    )


def _data(value: object) -> tuple[dict[str, Any], bool]:
    """Return what is said of the data, and whether its digests are keyed (rule 3.6)."""
    marked = "keyed" in mapping(value, "data")
    entry = exactly(value, _DATA | {"keyed"} if marked else _DATA, "data")
    if not marked:
        return entry, False
    if entry["keyed"] is not True:
        raise CheckpointError("data.keyed is not true, and nothing else may stand there")
    text(entry["fingerprint"], "data.fingerprint", SHA256)
    sizes = [
        mapping(each, "a source").get("bytes") for each in array(entry["sources"], "data.sources")
    ]
    if any(size != 0 for size in sizes):
        raise CheckpointError("a source's bytes is not 0 beside data.keyed")
    return entry, True


def _source(value: object) -> Source:
    entry = exactly(value, _FILE | {"name", "role"}, "a source")
    if entry["role"] not in _ROLES:
        raise CheckpointError(f"a source's role is none of {', '.join(sorted(_ROLES))}")
    return Source(
        text(entry["name"], "a source's name"),
        text(entry["sha256"], "a source's sha256", SHA256),
        integer(entry["bytes"], "a source's bytes"),
        entry["role"],
    )


def _environment(value: object) -> Environment:
    entry = exactly(value, _ENVIRONMENT, "environment")
    return Environment(
        python=text(entry["python"], "environment.python"),
        platform=text(entry["platform"], "environment.platform"),
        cpu=text(entry["cpu"], "environment.cpu"),
        accelerators=tuple(
            text(each, "environment.accelerators")
            for each in array(entry["accelerators"], "environment.accelerators")
        ),
        packages={
            name: text(version, f"environment.packages.{name}")
            for name, version in mapping(entry["packages"], "environment.packages").items()
        },
        ranks=integer(entry["ranks"], "environment.ranks"),
    )


def _parent(value: object) -> Parent:
    entry = exactly(value, frozenset({"weights_sha256", "record_sha256"}), "parent")
    record = entry["record_sha256"]
    return Parent(
        text(entry["weights_sha256"], "parent.weights_sha256", SHA256),
        None if record is None else text(record, "parent.record_sha256", SHA256),
    )


def _file(value: object, where: str) -> RecordedFile:
    entry = exactly(value, _FILE, where)
    return RecordedFile(
        text(entry["sha256"], f"{where}.sha256", SHA256), integer(entry["bytes"], f"{where}.bytes")
    )
