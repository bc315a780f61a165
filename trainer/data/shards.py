"""Token shards on disk, memory-mapped: docs/formats/shards.md is normative.

A shard set is a folder: `manifest.json`, and for each shard the tokens and the begins of
the documents in it. All shards but the last hold the same number of tokens, so the tokens
form one stream that is addressed by position; a document may go on in the next shard.

It refuses a manifest that was edited or is of another version, shards that are missing,
truncated or changed (SHA-256 of every file, once per opening), and names other than its
own. Invariants: an open set was whole when it was opened; nothing here writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import DataError

FORMAT = "casemate.shards/1"
MANIFEST_FILE = "manifest.json"
TOKEN_TYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
BEGIN_TYPE = np.dtype("<u8")
_HASH_BYTES = 1 << 20
_REMEDY = "delete the folder {} and run again: it is made anew from the corpus"
_FIELDS = {
    "format": str,
    "tokenizer": str,
    "vocabulary_size": int,
    "token_bytes": int,
    "shard_tokens": int,
    "tokens": int,
    "documents": int,
    "utf8_bytes": int,
    "sources": list,
    "shards": list,
    "digest": str,
}
_SHARD_FIELDS = {
    "name": str,
    "tokens": int,
    "documents": int,
    "tokens_sha256": str,
    "documents_sha256": str,
}


def shard_name(number: int) -> str:
    """Return the name of a shard, without the ending of its two files."""
    return f"shard-{number:05d}"


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return SHA-256 of a manifest without its `digest`: sorted keys, no spaces, UTF-8."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Shard:
    tokens: npt.NDArray[Any]
    begins: npt.NDArray[np.uint64]


class ShardSet:
    """One stream of tokens over memory-mapped shards.

    Attributes:
        folder: where it lies.
        tokens: number of tokens.
        documents: number of documents.
        utf8_bytes: bytes of the text that the tokens stand for.
        tokenizer_digest: digest of the tokenizer that made the tokens.
        digest: SHA-256 that stands for the whole set.
        sources: what it says it was made from, as the manifest has it.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], shards: list[_Shard]) -> None:
        self.folder = folder
        self.tokens: int = manifest["tokens"]
        self.documents: int = manifest["documents"]
        self.utf8_bytes: int = manifest["utf8_bytes"]
        self.tokenizer_digest: str = manifest["tokenizer"]
        self.digest: str = manifest["digest"]
        self.sources: list[Any] = manifest["sources"]
        self._shard_tokens: int = manifest["shard_tokens"]
        self._shards = shards

    @classmethod
    def open(cls, folder: Path) -> ShardSet:
        """Check a shard set completely and map it.

        Raises:
            DataError: naming the manifest or the shard, and what to do.
        """
        manifest = _read_manifest(folder)
        shards = []
        for number, entry in enumerate(manifest["shards"]):
            _check_fields(folder, entry, _SHARD_FIELDS, f"shard {number}")
            if entry["name"] != shard_name(number):
                raise _damaged(folder, f"shard {number} has another name in {MANIFEST_FILE}")
            token_type = TOKEN_TYPES[manifest["token_bytes"]]
            name = entry["name"]
            shards.append(
                _Shard(
                    _map(folder, f"{name}.tokens", token_type, entry, "tokens"),
                    _map(folder, f"{name}.documents", BEGIN_TYPE, entry, "documents"),
                )
            )
        return cls(folder, manifest, shards)

    def read(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Return the tokens [begin, end) of the stream, int64, as a copy.

        Raises:
            ValueError: the range is not inside the stream.
        """
        if not 0 <= begin <= end <= self.tokens:
            raise ValueError(f"tokens {begin} to {end} are not inside 0 to {self.tokens}")
        out = np.empty(end - begin, dtype=np.int64)
        for number, first, last in self._parts(begin, end):
            base = number * self._shard_tokens
            out[base + first - begin : base + last - begin] = self._shards[number].tokens[
                first:last
            ]
        return out

    def begins(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Return the positions in [begin, end) at which a document begins, sorted, int64."""
        found = []
        for number, first, last in self._parts(begin, end):
            all_begins = self._shards[number].begins
            low, high = np.searchsorted(all_begins, np.array([first, last], dtype=BEGIN_TYPE))
            found.append(all_begins[low:high].astype(np.int64) + number * self._shard_tokens)
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def _parts(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """Return (shard, first, last) for the shards that [begin, end) lies in."""
        parts = []
        while begin < end:
            number, first = divmod(begin, self._shard_tokens)
            last = min(self._shard_tokens, first + end - begin)
            parts.append((number, first, last))
            begin += last - first
        return parts

    def __repr__(self) -> str:
        return f"ShardSet({self.tokens} tokens, {self.documents} documents, {self.digest[:12]})"


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(f"{folder}: {what}; {_REMEDY.format(folder)}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: there is no {MANIFEST_FILE}: this is no shard set") from None
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{MANIFEST_FILE} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(folder, f"{MANIFEST_FILE} is not of the format {FORMAT}")
    _check_fields(folder, manifest, _FIELDS, MANIFEST_FILE)
    if manifest["digest"] != manifest_digest(manifest):
        raise _damaged(folder, f"{MANIFEST_FILE} was edited: its digest does not fit it")
    if manifest["token_bytes"] not in TOKEN_TYPES or manifest["shard_tokens"] < 1:
        raise _damaged(folder, f"{MANIFEST_FILE} has sizes that no shard can have")
    _check_totals(folder, manifest)
    return manifest


def _check_fields(folder: Path, entry: Any, fields: Mapping[str, type], where: str) -> None:
    if not isinstance(entry, dict) or set(entry) != set(fields):
        raise _damaged(folder, f"{where} does not have exactly the fields {', '.join(fields)}")
    for name, kind in fields.items():
        if not isinstance(entry[name], kind) or isinstance(entry[name], bool):
            raise _damaged(folder, f"{where}: {name} is no {kind.__name__}")


def _check_totals(folder: Path, manifest: Mapping[str, Any]) -> None:
    total = manifest["tokens"]
    for number, entry in enumerate(manifest["shards"]):
        left = total - number * manifest["shard_tokens"]
        if not isinstance(entry, dict) or entry.get("tokens") != min(
            left, manifest["shard_tokens"]
        ):
            raise _damaged(folder, f"shard {number} has the wrong number of tokens")
    held = sum(entry["tokens"] for entry in manifest["shards"])
    if held != total:
        raise _damaged(folder, f"the shards hold {held} tokens, {MANIFEST_FILE} says {total}")


def _map(
    folder: Path, name: str, kind: np.dtype[Any], entry: Mapping[str, Any], count: str
) -> npt.NDArray[Any]:
    path = folder / name
    expected = entry[count] * kind.itemsize
    try:
        size = path.stat().st_size
        if size != expected:
            raise _damaged(folder, f"{name} has {size} bytes where {expected} are expected")
        if _file_digest(path) != entry[f"{count}_sha256"]:
            raise _damaged(folder, f"{name} is corrupt: its SHA-256 is not that of the manifest")
        if size == 0:
            return np.empty(0, dtype=kind)
        return np.memmap(path, dtype=kind, mode="r")
    except OSError as error:
        raise _damaged(folder, f"{name} cannot be read: {error.strerror}") from error
