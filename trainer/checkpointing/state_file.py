"""`state.json` in a checkpoint of a run: everything of it that is no tensor.

It is JSON with sorted keys and no spaces, written last, and names every other file with
its size and SHA-256. Numbers come back as they were, to the last bit, and 2.0 is not 2:
that is why it is not RFC 8785, whose numbers do not tell integers from others.

`digest` is the SHA-256 of the document without it, so that a damaged or edited file is
noticed whichever it is. That is a safeguard against accidents, not against somebody who
recomputes digests: checkpoints of a run stay on the machines that run it, and what is
handed on is exported and signed.

Reading is strict: unknown or missing keys, other types and other formats are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from security.strictjson import StrictJsonError, parse
from trainer.checkpointing.files import sha256_file
from trainer.errors import CheckpointError

STATE_NAME: Final = "state.json"
STATE_FORMAT: Final = "casemate.training-state/1"
_MAX_BYTES: Final = 64 << 20
_KEYS: Final = {
    "format",
    "step",
    "world",
    "score",
    "recipe_digest",
    "recipe",
    "progress",
    "optimizer_values",
    "files",
    "digest",
}


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size and SHA-256 (hexadecimal) of one file."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> FileDigest:
        """Read a file."""
        return cls(sha256_file(path), path.stat().st_size)


@dataclass(frozen=True, slots=True)
class RunState:
    """The content of `state.json`.

    Attributes:
        step: updates made.
        world: ranks that saved it; informative, any number may restore it.
        score: the validation figure, or None.
        recipe_digest: of the values that decide the result.
        recipe: those values by "section.key".
        progress: what the loop keeps, JSON types.
        optimizer_values: parameter name -> state name -> value that is no tensor.
        files: the files beside it, by name.
    """

    step: int
    world: int
    score: float | None
    recipe_digest: str
    recipe: Mapping[str, Any]
    progress: Mapping[str, Any]
    optimizer_values: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, FileDigest]

    def encode(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            CheckpointError: a value is no JSON, such as a number that is not finite.
        """
        document: dict[str, Any] = {
            "format": STATE_FORMAT,
            "step": self.step,
            "world": self.world,
            "score": self.score,
            "recipe_digest": self.recipe_digest,
            "recipe": dict(self.recipe),
            "progress": dict(self.progress),
            "optimizer_values": {name: dict(v) for name, v in self.optimizer_values.items()},
            "files": {
                name: {"sha256": file.sha256, "bytes": file.size_bytes}
                for name, file in self.files.items()
            },
        }
        try:
            data = _canonical({**document, "digest": _digest(document)})
            parse(data, max_bytes=_MAX_BYTES)
            return data
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"the progress of step {self.step} cannot be written as JSON: {error}"
            ) from error


def read_state(folder: Path) -> RunState:
    """Read the `state.json` of a complete checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, or of a format that is not known.
    """
    path = folder / STATE_NAME
    try:
        document = parse(path.read_bytes(), max_bytes=_MAX_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except StrictJsonError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != STATE_FORMAT:
        raise CheckpointError(
            f"{path} is no state of a run that this version knows ({STATE_FORMAT})"
        )
    if document.keys() != _KEYS or document.pop("digest") != _digest(document):
        raise CheckpointError(f"{path} is damaged: its digest does not match its content")
    try:
        return _decode(document)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: a value has the wrong type") from error


def _decode(document: dict[str, Any]) -> RunState:
    score = document["score"]
    return RunState(
        step=int(document["step"]),
        world=int(document["world"]),
        score=None if score is None else float(score),
        recipe_digest=str(document["recipe_digest"]),
        recipe=dict(document["recipe"]),
        progress=dict(document["progress"]),
        optimizer_values={k: dict(v) for k, v in document["optimizer_values"].items()},
        files={
            name: FileDigest(str(file["sha256"]), int(file["bytes"]))
            for name, file in document["files"].items()
        },
    )


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(document)).hexdigest()


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
