"""Canaries: random records that are planted by secret coins, and the file that keeps them.

A canary is a text of random tokens; for a classifier it has a random label. Tokens are
dealt from a shuffled vocabulary, so that canaries share few of them and what a model
knows of one it did not learn from another. Each is in the data or not by a coin of its
own, thrown with os.urandom before training.

canaries.json (docs/formats/canaries.md) holds the records and the coins: whoever reads it
before the audit could make the audit say anything, so it has mode 0600 and exists once
per run. Its SHA-256 is the commitment that goes into the run's record; 32 secret bytes in
the file keep the digest from telling the coins.

Invariants: coins are thrown once, never again for a run that is resumed; records do not
depend on the coins, the data or the model; the file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from security.errors import SecurityError
from security.files import create_exclusive, read_bounded, sync_folder
from security.strictjson import StrictJsonError, canonical, parse
from trainer.checkpointing.fields import SHA256, array, exactly, integer, text
from trainer.data.tokenization import Tokenizer
from trainer.errors import CheckpointError
from trainer.privacy.errors import PrivacyError

CANARIES_NAME: Final = "canaries.json"
CANARIES_FORMAT: Final = "casemate.canaries/1"
MAX_CANARIES_BYTES: Final = 256 << 20
# Tokens of a canary, where sequences are long enough: more guesses than anybody has.
CANARY_TOKENS: Final = 16
# Fewer tokens to choose from, and canaries would be alike.
_MIN_ALPHABET = 8
_SALT_BYTES = 32
_KEYS = frozenset(
    {
        "format",
        "objective",
        "labels",
        "units",
        "tokenizer",
        "salt",
        "records",
        "classes",
        "included",
    }
)

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, repr=False)
class Records:
    """Random records: what canaries and the fresh candidates of an audit are made of.

    Attributes:
        ids: i64[N, T], tokens without special ones.
        classes: i64[N], labels; None where the task has none.
    """

    ids: Ids
    classes: Ids | None

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def take(self, chosen: NDArray[np.bool_]) -> Records:
        """Return the records where `chosen`, bool[N], is true."""
        return Records(self.ids[chosen], None if self.classes is None else self.classes[chosen])


@dataclass(frozen=True, slots=True, repr=False)
class CanarySet:
    """The canaries of a run.

    Attributes:
        records: all of them, in an order that knows nothing of the coins.
        included: bool[N], the coins. Secret until the audit.
        objective: kind of objective that they are records for.
        labels: classes to choose from; 0 where the task has none.
        units: records (or users) of the data without canaries.
        tokenizer_digest: of the tokenizer that the tokens belong to.
        salt: secret random bytes.
    """

    records: Records
    included: NDArray[np.bool_]
    objective: str
    labels: int
    units: int
    tokenizer_digest: str
    salt: bytes = field(default_factory=lambda: os.urandom(_SALT_BYTES))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def planted(self) -> Records:
        """The records that are trained on."""
        return self.records.take(self.included)

    @property
    def digest(self) -> str:
        """SHA-256 of the file, 64 hex digits: the commitment to records and coins."""
        return hashlib.sha256(self.encode()).hexdigest()

    def candidates(self, count: int, tokenizer: Tokenizer) -> Records:
        """Return fresh records of the same distribution, the same ones every time.

        Raises:
            PrivacyError: the tokenizer is another.
        """
        self.check_tokenizer(tokenizer)
        seed = hashlib.sha256(b"casemate audit candidates" + self.salt).digest()
        length = self.records.ids.shape[1]
        return draw_records(count, length, alphabet(tokenizer), self.labels, seed)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Check that the tokens mean what they meant when the canaries were made.

        Raises:
            PrivacyError: the tokenizer is another.
        """
        if tokenizer.digest != self.tokenizer_digest:
            raise PrivacyError(
                "the canaries were made for another tokenizer: this file belongs to another run"
            )

    def encode(self) -> bytes:
        """Return the bytes of the file: canonical JSON."""
        classes = self.records.classes
        return canonical(
            {
                "format": CANARIES_FORMAT,
                "objective": self.objective,
                "labels": self.labels,
                "units": self.units,
                "tokenizer": self.tokenizer_digest,
                "salt": self.salt.hex(),
                "records": self.records.ids.tolist(),
                "classes": [] if classes is None else classes.tolist(),
                "included": [int(coin) for coin in self.included],
            }
        )

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner alone, durably.

        Raises:
            PrivacyError: there is one already, or it cannot be written.
        """
        try:
            create_exclusive(path, self.encode())
            sync_folder(path.parent)
        except FileExistsError as error:
            raise PrivacyError(f"{path} exists: the coins of a run are thrown once") from error
        except OSError as error:
            raise PrivacyError(f"{path} cannot be written: {error.strerror}") from error


def throw_coins(count: int) -> NDArray[np.bool_]:
    """Return fair, independent coins from the operating system, bool[count]."""
    bits = np.unpackbits(np.frombuffer(os.urandom((count + 7) // 8), dtype=np.uint8))
    return bits[:count].astype(bool)


def alphabet(tokenizer: Tokenizer) -> Ids:
    """Return the ids that canaries are made of, ascending: the rarer ordinary tokens.

    Vocabularies list frequent tokens first. What the records of the data say of a frequent
    token drowns what one canary says of it, so the first half of the ids is left out.

    Raises:
        PrivacyError: there are too few.
    """
    special = set(tokenizer.special.all())
    added = tokenizer.raw.get_added_tokens_decoder()
    special.update(token for token, entry in added.items() if entry.special)
    known = set(tokenizer.raw.get_vocab(with_added_tokens=True).values())
    ids = np.array(sorted(known - special), dtype=np.int64)
    if ids.size < 2 * _MIN_ALPHABET:
        raise PrivacyError(
            f"the vocabulary has {ids.size} ordinary tokens; canaries of half of them would be "
            "alike"
        )
    return ids[ids.size // 2 :]


def draw_records(count: int, length: int, tokens: Ids, labels: int, seed: bytes) -> Records:
    """Return random records; the same for the same arguments.

    Args:
        count: how many.
        length: tokens of each.
        tokens: i64[A] to choose from: dealt like cards, anew when they are used up.
        labels: classes to choose from; 0 for none.
        seed: 16 bytes or more.
    """
    draw = np.random.Generator(np.random.Philox(key=np.frombuffer(seed[:16], dtype="<u8")))
    deals = -(-count * length // tokens.size)
    dealt = np.concatenate([draw.permutation(tokens) for _ in range(deals)])
    classes = draw.integers(0, labels, count) if labels else None
    return Records(dealt[: count * length].reshape(count, length), classes)


def make_canaries(
    count: int,
    *,
    objective: str,
    tokenizer: Tokenizer,
    length: int,
    labels: int,
    units: int,
) -> CanarySet:
    """Draw canaries and throw their coins.

    Args:
        count: canaries, 2 or more.
        objective: kind of objective that they are records for.
        tokenizer: of the run.
        length: tokens of each, without special ones.
        labels: classes of a classifier, else 0.
        units: records or users of the data without canaries.

    Raises:
        PrivacyError: too few canaries, tokens or positions.
    """
    if count < 2 or length < 1:
        raise PrivacyError(
            f"{count} canaries of {length} tokens prove nothing; set privacy.canaries to 100 or "
            "more, and data.sequence_length so that they have room"
        )
    records = draw_records(count, length, alphabet(tokenizer), labels, os.urandom(_SALT_BYTES))
    return CanarySet(records, throw_coins(count), objective, labels, units, tokenizer.digest)


def load_canaries(path: Path) -> CanarySet:
    """Read canaries.json; strict.

    Raises:
        PrivacyError: it is missing, unreadable, or breaks a rule of its format.
    """
    try:
        return _decode(read_bounded(path, MAX_CANARIES_BYTES))
    except (SecurityError, StrictJsonError, CheckpointError, ValueError) as error:
        raise PrivacyError(f"{path} holds no canaries: {error}") from error


def _decode(data: bytes) -> CanarySet:
    top = exactly(parse(data, max_bytes=MAX_CANARIES_BYTES), _KEYS, CANARIES_NAME)
    if top["format"] != CANARIES_FORMAT:
        raise CheckpointError(f"'format' is not {CANARIES_FORMAT!r}, which this version reads")
    # numpy names a ragged or foreign array by its shape or type, never by its content.
    ids = np.array(array(top["records"], "records"))
    classes = np.array(array(top["classes"], "classes"))
    coins = np.array(array(top["included"], "included"))
    labels = integer(top["labels"], "labels")
    if ids.ndim != 2 or ids.dtype.kind != "i" or ids.shape[0] < 2 or ids.min() < 0:
        raise CheckpointError("'records' is no table of token ids")
    if coins.shape != ids.shape[:1] or coins.dtype.kind != "i" or not np.isin(coins, (0, 1)).all():
        raise CheckpointError("'included' does not hold a coin for every record")
    if labels and (classes.shape != coins.shape or classes.dtype.kind != "i"):
        raise CheckpointError("'classes' does not hold a label for every record")
    if labels and not ((classes >= 0) & (classes < labels)).all():
        raise CheckpointError("'classes' holds a label that is none")
    found = CanarySet(
        records=Records(ids.astype(np.int64), classes.astype(np.int64) if labels else None),
        included=coins.astype(bool),
        objective=text(top["objective"], "objective"),
        labels=labels,
        units=integer(top["units"], "units"),
        tokenizer_digest=text(top["tokenizer"], "tokenizer", SHA256),
        salt=bytes.fromhex(text(top["salt"], "salt", SHA256)),
    )
    if found.encode() != data:
        raise CheckpointError("no canonical JSON (RFC 8785)")
    return found
