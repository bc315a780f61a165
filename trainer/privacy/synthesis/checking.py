"""Holds samples against the claim beside them, and the claim against the model it names.

docs/formats/synthetic.md, section 4, is the procedure; the numbers below are its rules.
Samples are read line by line, so that a file may be larger than memory. What it refuses is
named; no message holds a text.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from security.strictjson import StrictJsonError, parse
from trainer.checkpointing.fields import mapping
from trainer.errors import CheckpointError
from trainer.privacy.synthesis.errors import SynthesisError
from trainer.privacy.synthesis.record import SyntheticRecord, read_record, record_path
from trainer.privacy.synthesis.source import verified_report

MAX_LINE_BYTES: Final = 16 << 20


def check_samples(samples: Path) -> SyntheticRecord:
    """Hold a file of samples against the claim beside it: rules 4.1 to 4.3.

    Raises:
        SynthesisError: they do not belong together; the message says in what.
    """
    record = read_record(samples)
    digest, size, lines = hashlib.sha256(), 0, 0
    try:
        with samples.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                lines += 1
                size += len(line)
                digest.update(line)
                _check_line(line, lines, record, samples)
    except OSError as error:
        raise SynthesisError(f"{samples} cannot be read: {error.strerror}") from error
    if (digest.hexdigest(), size, lines) != (
        record.samples.sha256,
        record.samples.bytes,
        record.samples.count,
    ):
        raise SynthesisError(
            f"{samples} is not the file that {record_path(samples).name} is about: lines were "
            "changed, added or left out"
        )
    return record


def _check_line(line: bytes, number: int, record: SyntheticRecord, path: Path) -> None:
    """Check a line's form: nothing but id, text, and the prompt's number where there are any."""
    where = f"{path}:{number}"
    if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
        raise SynthesisError(f"{where}: is no whole line of at most {MAX_LINE_BYTES:,} bytes")
    try:
        entry = mapping(parse(line[:-1], max_bytes=MAX_LINE_BYTES, max_depth=2), where)
    except (StrictJsonError, CheckpointError):
        raise SynthesisError(f"{where}: is no JSON object") from None
    keys = {"id", "text", "prompt"} if record.prompts else {"id", "text"}
    if entry.keys() != keys or entry["id"] != number or not isinstance(entry["text"], str):
        raise SynthesisError(f"{where}: is not written by this format")
    prompt = entry.get("prompt", 0)
    if not (isinstance(prompt, int) and 0 <= prompt < max(1, len(record.prompts))):
        raise SynthesisError(f"{where}: names a prompt that the claim does not")


def check_model(record: SyntheticRecord, folder: Path) -> bool:
    """Hold a claim against the checkpoint that it names: rule 4.4.

    Returns:
        Whether privacy.json is byte for byte what it was; an audit that was added since
        changes it, and not the claim.

    Raises:
        PrivacyError: the checkpoint has no claim that could be relied on.
        CheckpointError: its files do not belong together.
        SynthesisError: it is another model, or claims something else.
    """
    report, digest = verified_report(folder)
    if record.model != report.model:
        raise SynthesisError(f"{folder} is not the model that the samples name")
    if record.claim != report.claim or record.dataset != report.composition.dataset:
        raise SynthesisError(f"{folder} does not claim what the samples say it claims")
    return record.report_sha256 == digest
