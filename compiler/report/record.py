"""compilation.json: all that a compilation was, as one strict JSON document.

docs/formats/compilation.md is normative. The page, the picture and the statement in the
bundle are made of this record alone, so none of them says what it does not.

Invariants: read back, every field is there, known, of its type and in its range; the
chosen candidate and the front name candidates that are listed; speeds that were computed
for another machine are marked as predicted, in the record and in each candidate; the bytes
are canonical, so equal records are equal files. No text that was measured on is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from compiler.errors import ReportError, TargetError
from compiler.report.entry import Entry
from compiler.targets.target import Target, target_from
from compiler.tune.candidate import SETTINGS
from compiler.tune.promise import Promise
from security.bundle.fields import FieldError, Fields
from security.bundle.manifest import LLAMA_CPP, ONNXRUNTIME
from security.strictjson import JsonValue, StrictJsonError, canonical, parse

FORMAT: Final = "casemate.compilation/1"
RECORD_NAME: Final = "compilation.json"
MAX_RECORD_BYTES: Final = 16 << 20
_MAX_DEPTH: Final = 8
_MAX_CANDIDATES: Final = 4096
_MAX_TEXTS: Final = 512
_MOST: Final = 1e15
_MAX_INTEGER: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The file that everything was made of, which is also the reference."""

    name: str
    sha256: str
    size_bytes: int
    backend: str


@dataclass(frozen=True, slots=True)
class WorstTensor:
    """What narrowing one tensor alone costs.

    Attributes:
        tensor: its name.
        format: that it was narrowed to.
        divergence: mean KL divergence of the model with it, in nats.
        saved_bytes: what that saved.
    """

    tensor: str
    format: str
    divergence: float
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class Compilation:
    """A compilation.

    Attributes:
        source: what it began with.
        target: what it was for.
        machine: processor that measured, as the maker calls it.
        promise: the quality that was promised.
        load: what the choice was to be fast at: a number of clients, "prefill" or "size".
        load_rates: names of the rates that this is about.
        loss: what the front is drawn over, in words.
        chosen: digest of the chosen candidate.
        reference: digest of the source as a candidate.
        front: digests of the Pareto front, by rising loss.
        candidates: all that were tried.
        worst: tensors by what narrowing them costs, worst first.
        context: what figures depend on: digests of texts, versions of tools.
        command: the exact command, word by word.
        seconds: that the search took.
        budget_seconds: that it could take, or None.
        notes: what was cut short, and how fast the chosen file is with other settings.
    """

    source: SourceFacts
    target: Target
    machine: str
    promise: Promise
    load: str
    load_rates: tuple[str, ...]
    loss: str
    chosen: str
    reference: str
    front: tuple[str, ...]
    candidates: tuple[Entry, ...]
    worst: tuple[WorstTensor, ...]
    context: Mapping[str, JsonValue]
    command: tuple[str, ...]
    seconds: float
    budget_seconds: float | None
    notes: tuple[str, ...]

    @property
    def predicted(self) -> bool:
        """Whether speeds are predictions for another machine."""
        return any(one.predicted for one in self.candidates)

    def entry(self, digest: str) -> Entry:
        """Return a candidate by its digest; it is one of those listed."""
        return next(one for one in self.candidates if one.candidate.digest == digest)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON values."""
        source = self.source
        return {
            "format": FORMAT,
            "source": {
                "name": source.name,
                "sha256": source.sha256,
                "size_bytes": source.size_bytes,
                "backend": source.backend,
            },
            "target": self.target.to_dict(),
            "machine": self.machine,
            "predicted": self.predicted,
            "promise": self.promise.to_dict(),
            "load": self.load,
            "load_rates": list(self.load_rates),
            "loss": self.loss,
            "chosen": self.chosen,
            "reference": self.reference,
            "front": list(self.front),
            "candidates": [one.to_dict() for one in self.candidates],
            "worst": [
                {
                    "tensor": one.tensor,
                    "format": one.format,
                    "divergence": one.divergence,
                    "saved_bytes": one.saved_bytes,
                }
                for one in self.worst
            ],
            "context": dict(self.context),
            "command": list(self.command),
            "seconds": self.seconds,
            "budget_seconds": self.budget_seconds,
            "notes": list(self.notes),
        }


def encode_record(record: Compilation) -> bytes:
    """Return the content of compilation.json: canonical JSON, and one line end."""
    return canonical(record.to_dict()) + b"\n"


def parse_record(data: bytes) -> Compilation:
    """Return the compilation that `encode_record` wrote.

    Raises:
        ReportError: it breaks the format; names the field.
    """
    try:
        value = parse(data, max_bytes=MAX_RECORD_BYTES, max_depth=_MAX_DEPTH)
        record = read_record(value)
        if encode_record(record) != data:
            raise FieldError("the bytes: are not the canonical form of their content")
    except (StrictJsonError, FieldError, TargetError) as error:
        raise ReportError(f"{RECORD_NAME}: {error}") from error
    return record


def read_record(value: object) -> Compilation:
    """Return the compilation in a parsed JSON value.

    Raises:
        FieldError, TargetError: it breaks the format; names the field.
    """
    given = Fields(value, RECORD_NAME)
    given.constant("format", FORMAT)
    predicted = given.boolean("predicted")
    context = given.raw("context")
    if not isinstance(context, dict):
        raise FieldError("context: must be an object")
    entries = given.nested_list("candidates", 1, _MAX_CANDIDATES)
    record = Compilation(
        source=_source(given.nested("source")),
        target=_target(given.raw("target")),
        machine=given.optional_text("machine", 256) or "",
        promise=Promise.from_dict(given.raw("promise")),
        load=given.name("load"),
        load_rates=given.texts("load_rates", 64, 64),
        loss=given.name("loss"),
        chosen=given.sha256("chosen"),
        reference=given.sha256("reference"),
        front=given.texts("front", _MAX_CANDIDATES, 64),
        candidates=tuple(Entry.read(one, f"candidates[{i}]") for i, one in enumerate(entries)),
        worst=tuple(map(_worst, given.nested_list("worst", 0, _MAX_CANDIDATES))),
        context=context,
        command=given.texts("command", _MAX_TEXTS, 4096),
        seconds=given.number("seconds", 0.0, _MOST),
        budget_seconds=(
            None if given.is_null("budget_seconds") else given.number("budget_seconds", 0.0, _MOST)
        ),
        notes=given.texts("notes", _MAX_TEXTS, 2000),
    )
    given.done()
    _check(record, predicted)
    return record


def _check(record: Compilation, predicted: bool) -> None:
    """Refuse a record whose parts contradict each other."""
    known = {one.candidate.digest: one for one in record.candidates}
    if len(known) != len(record.candidates):
        raise FieldError("candidates: one is listed twice")
    for name, digests in (
        ("chosen", (record.chosen,)),
        ("reference", (record.reference,)),
        ("front", record.front),
    ):
        if not set(digests) <= set(known):
            raise FieldError(f"{name}: names a candidate that is not listed")
    if predicted is not record.predicted:
        raise FieldError("predicted: contradicts the candidates")
    chosen = known[record.chosen]
    if chosen.candidate.family == SETTINGS:
        raise FieldError("chosen: differs in settings, which no bundle carries")
    if chosen.quality is None or chosen.quick or record.promise.broken(chosen.quality):
        raise FieldError("chosen: breaks the promise")
    if not set(record.load_rates) <= set(chosen.rates):
        raise FieldError("load_rates: names a rate that the chosen candidate has not")


def _source(given: Fields) -> SourceFacts:
    facts = SourceFacts(
        given.name("name"),
        given.sha256("sha256"),
        given.integer("size_bytes", 0, _MAX_INTEGER),
        given.choice("backend", (LLAMA_CPP, ONNXRUNTIME)),
    )
    given.done()
    return facts


def _target(value: object) -> Target:
    if not isinstance(value, dict):
        raise FieldError("target: must be an object")
    values: dict[str, Any] = dict(value)
    name, origin = values.pop("name", None), values.pop("origin", None)
    if not isinstance(name, str) or not isinstance(origin, str):
        raise FieldError("target: needs a name and an origin")
    return target_from(values, name, origin, "target")


def _worst(given: Fields) -> WorstTensor:
    one = WorstTensor(
        given.name("tensor"),
        given.name("format"),
        given.number("divergence", -1.0, _MOST),
        given.integer("saved_bytes", -_MAX_INTEGER, _MAX_INTEGER),
    )
    given.done()
    return one
