"""The claim that goes with samples: written beside them, and held against them later.

docs/formats/synthetic.md is normative; rule numbers are that document's. The record says
which model wrote the samples, what that model claims, how the tokens were drawn, what was
asked of it, and what the samples' digest is. It holds no text but the prompts, which are
public by definition. Written as canonical JSON (RFC 8785); reading is strict.

It proves that samples and claim belong together, not that the model wrote the samples:
whoever writes both files can write anything. An auditor who holds the checkpoint checks
the claim against it, and with a seed can have the samples written again.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from security.bundle.claim import MAX_DELTA, MAX_EPSILON, NEIGHBOURS, SAMPLINGS, UNITS
from security.errors import SecurityError
from security.files import read_bounded
from security.strictjson import StrictJsonError, canonical, parse
from trainer.checkpointing.fields import SHA256, TIME, mapping, text
from trainer.errors import CheckpointError
from trainer.privacy.plain import from_plain, to_plain
from trainer.privacy.sections import Claim, ModelIdentity
from trainer.privacy.synthesis.errors import SynthesisError

FORMAT: Final = "casemate.synthetic/1"
SUFFIX: Final = ".claim.json"
MAX_RECORD_BYTES: Final = 8 << 20
_MAX_DEPTH: Final = 6
# Said in the file, so that nobody has to look elsewhere for what the figures mean.
STATEMENT: Final = (
    "These texts were computed from the weights of the model named here, from public prompts "
    "and from random numbers, and from nothing else. By post-processing they reveal no more of "
    "the model's private training data than the claim allows, all of them together and however "
    "many there are. The claim is void if a prompt was taken from the private data."
)


@dataclass(frozen=True, slots=True)
class Samples:
    """The file of texts.

    Attributes:
        name: of the file, without folder.
        sha256: of its bytes.
        bytes: of it.
        count: texts, one a line.
        ended: texts that the model ended itself.
        tokens: of all texts, prompts not counted.
    """

    name: str
    sha256: str
    bytes: int
    count: int
    ended: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens were drawn; see `settings.Sampling`."""

    temperature: float
    top_k: int
    top_p: float
    max_tokens: int
    seed: int | None
    batch: int


@dataclass(frozen=True, slots=True)
class SyntheticRecord:
    """The content of a claim beside samples.

    Attributes:
        created: time, UTC.
        samples: the texts.
        model: as in the model's privacy.json.
        report_sha256: of that privacy.json.
        dataset: the owner's name for the private data.
        claim: as in that privacy.json.
        audited: whether an audit that counts did not contradict the claim.
        sampling: how tokens were drawn.
        prompts: public beginnings, in the order of their numbers; empty without.
        statement: what follows from it, in words.
    """

    created: str
    samples: Samples
    model: ModelIdentity
    report_sha256: str
    dataset: str
    claim: Claim
    audited: bool
    sampling: Drawing
    prompts: tuple[str, ...]
    statement: str

    def encode(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            SynthesisError: a value breaks a rule of the format.
        """
        plain: dict[str, Any] = to_plain(self)
        try:
            data = canonical({"format": FORMAT, **plain})
        except StrictJsonError as error:
            raise SynthesisError(f"the claim cannot be written: {error}") from error
        decode_record(data)  # nothing is written that could not be read
        return data


def record_path(samples: Path) -> Path:
    """Return where the claim of a file of samples lies."""
    return samples.with_name(samples.name + SUFFIX)


def decode_record(data: bytes) -> SyntheticRecord:
    """Return what the bytes of a claim say.

    Raises:
        SynthesisError: naming the key that breaks a rule.
    """
    try:
        document = mapping(parse(data, max_bytes=MAX_RECORD_BYTES, max_depth=_MAX_DEPTH), "claim")
        if canonical(document) != data:
            raise CheckpointError("no canonical JSON (RFC 8785)")
        if document.get("format") != FORMAT:
            raise CheckpointError(f"format is not {FORMAT!r}, which this version reads")
        values = {key: value for key, value in document.items() if key != "format"}
        record = from_plain(SyntheticRecord, values, "claim")
        _check(record)
    except (StrictJsonError, CheckpointError) as error:
        raise SynthesisError(str(error)) from error
    return record


def _check(record: SyntheticRecord) -> None:
    """Refuse what each key allows and together cannot be (section 2 of the format)."""
    text(record.created, "created", TIME)
    for digest in (
        record.samples.sha256,
        record.model.weights_sha256,
        record.model.training_sha256,
        record.report_sha256,
    ):
        text(digest, "a digest", SHA256)
    claim, samples, drawing = record.claim, record.samples, record.sampling
    known = claim.unit in UNITS and claim.neighbours in NEIGHBOURS and claim.sampling in SAMPLINGS
    if not (known and 0 < claim.epsilon <= MAX_EPSILON and 0 < claim.delta <= MAX_DELTA):
        raise CheckpointError("claim.claim: is none that a privacy report can make")
    if claim.contributions < 1 or (claim.unit == "record" and claim.contributions != 1):
        raise CheckpointError("claim.claim.contributions: does not fit the unit")
    if claim.user_field == "" or (claim.unit == "user") != bool(claim.user_field):
        raise CheckpointError("claim.claim.user_field: does not fit the unit")
    if samples.count < 1 or samples.ended > samples.count or samples.tokens < samples.count:
        raise CheckpointError("claim.samples: the figures cannot be of one file")
    if not (drawing.temperature >= 0 and 0 < drawing.top_p <= 1):
        raise CheckpointError("claim.sampling: is out of range")
    if drawing.max_tokens < 1 or drawing.batch < 1 or not math.isfinite(drawing.temperature):
        raise CheckpointError("claim.sampling: is out of range")
    if record.statement != STATEMENT:
        raise CheckpointError("claim.statement: is not the statement of this format")


def read_record(samples: Path) -> SyntheticRecord:
    """Read the claim beside a file of samples.

    Raises:
        SynthesisError: there is none, or it breaks a rule.
    """
    path = record_path(samples)
    try:
        return decode_record(read_bounded(path, MAX_RECORD_BYTES))
    except SecurityError as error:
        raise SynthesisError(
            f"{error}; without its claim nobody knows what {samples.name} reveals"
        ) from error
    except SynthesisError as error:
        raise SynthesisError(f"{path}: {error}") from error


def encode_line(number: int, content: str, prompt: int | None) -> bytes:
    """Return the line of a text, numbered from 1."""
    entry: dict[str, Any] = {"id": number}
    if prompt is not None:
        entry["prompt"] = prompt
    entry["text"] = content
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
