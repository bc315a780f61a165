"""What is tried, and what was measured of it: frozen values with an exact JSON form.

A candidate is a plan (how the file is made: quality depends on it alone) and settings (how
it is run: speed depends on both). Its identity is a digest over both in canonical JSON, so
the same candidate found twice, or in another run, is the same.

Invariants: figures read back from JSON are finite numbers in their range, or the line is
refused; a figure that was predicted says so wherever it goes.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final

from security.bundle.fields import FieldError, Fields
from security.strictjson import JsonValue, canonical

REFERENCE: Final = "reference"
# Other ways to run a file: measured, and never chosen, since a bundle carries files alone.
SETTINGS: Final = "settings"
# Kinds of candidates, for tables and for the search's order.
FAMILIES: Final = (REFERENCE, "output", "whole", "mix", SETTINGS)

# Beyond every figure; what is larger is written as this.
MOST: Final = 1e15
_MAX_RATES: Final = 64


@dataclass(frozen=True)
class Candidate:
    """One form of the model and one way to run it.

    Attributes:
        backend: "llama.cpp" or "onnxruntime".
        label: for people, such as "output layer Q4_0, embedding kept".
        family: one of FAMILIES.
        plan: JSON of the backend's plan for the file.
        settings: JSON of how it is run, such as {"threads": 2}.
    """

    backend: str
    label: str
    family: str
    plan: Mapping[str, JsonValue]
    settings: Mapping[str, JsonValue] = field(default_factory=dict)

    @cached_property
    def plan_digest(self) -> str:
        """SHA-256 of what decides the file's bytes."""
        return _digest({"backend": self.backend, "plan": self.plan})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides its figures."""
        return _digest({"backend": self.backend, "plan": self.plan, "settings": self.settings})


@dataclass(frozen=True, slots=True)
class Quality:
    """How far answers are from the reference's; None where a figure has no meaning.

    Attributes:
        kl_mean: Kullback-Leibler divergence from the reference's next-token (or class)
            distribution, mean, in nats.
        kl_p99: its 99th percentile.
        perplexity: of the candidate on the text.
        perplexity_ratio: by the reference's on the same tokens.
        top1: share of positions (inputs) where both put the same one first.
        accuracy: of the task, on labelled examples.
        accuracy_drop: the reference's accuracy less this one's; negative where better.
        spearman: rank correlation of similarities with the reference's.
        samples: tokens or examples that were looked at.
    """

    samples: int
    kl_mean: float | None = None
    kl_p99: float | None = None
    perplexity: float | None = None
    perplexity_ratio: float | None = None
    top1: float | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    spearman: float | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON values, null for what was not measured."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_dict(cls, value: object, path: str = "quality") -> Quality:
        """Return the quality that `to_dict` wrote.

        Raises:
            FieldError: a field is missing, unknown or no such figure.
        """
        given = Fields(value, path)
        samples = given.integer("samples", 0, 2**53 - 1)
        found: dict[str, float | None] = {}
        for name, low, high in _QUALITY_RANGES:
            found[name] = None if given.is_null(name) else given.number(name, low, high)
        given.done()
        return cls(samples, **found)


_QUALITY_RANGES: Final = (
    # Rounding can leave a divergence a little below zero.
    ("kl_mean", -1e-3, MOST),
    ("kl_p99", -1e-3, MOST),
    ("perplexity", 0.0, MOST),
    ("perplexity_ratio", 0.0, MOST),
    ("top1", 0.0, 1.0),
    ("accuracy", 0.0, 1.0),
    ("accuracy_drop", -1.0, 1.0),
    ("spearman", -1.0, 1.0),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement of speed, or a prediction of it.

    Attributes:
        rates: by name, per second: "decode@16" is tokens of 16 clients together,
            "prefill@512" tokens of a prompt, "encode@32x128" texts, batch x tokens.
        load_seconds: from the file to the first answer, or None.
        peak_mib: most memory of the process, or None.
        predicted: computed for another machine, never measured.
    """

    rates: Mapping[str, float]
    load_seconds: float | None = None
    peak_mib: float | None = None
    predicted: bool = False

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON values."""
        return {
            "rates": dict(self.rates),
            "load_seconds": self.load_seconds,
            "peak_mib": self.peak_mib,
            "predicted": self.predicted,
        }

    @classmethod
    def from_dict(cls, value: object, path: str = "speed") -> Speed:
        """Return the speed that `to_dict` wrote.

        Raises:
            FieldError: a field is missing, unknown or no such figure.
        """
        given = Fields(value, path)
        raw = given.raw("rates")
        if not isinstance(raw, dict) or not 0 < len(raw) <= _MAX_RATES:
            raise FieldError(f"{path}.rates: must be an object of 1 to {_MAX_RATES} rates")
        rates = Fields(raw, f"{path}.rates")
        found = {str(name): rates.number(name, 0.0, MOST, above_low=True) for name in raw}
        speed = cls(
            found,
            None if given.is_null("load_seconds") else given.number("load_seconds", 0.0, MOST),
            None if given.is_null("peak_mib") else given.number("peak_mib", 0.0, MOST),
            given.boolean("predicted"),
        )
        given.done()
        return speed


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure that was taken several times: median, lowest, highest, and how often."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Round:
    """A speed beside the reference's of the same few minutes: only their ratio is stable."""

    speed: Speed
    reference: Speed

    def ratio(self, rate: str) -> float:
        """Return how many times the reference's this rate is."""
        return self.speed.rates[rate] / self.reference.rates[rate]


@dataclass(frozen=True, slots=True)
class Trial:
    """All that is known of one candidate.

    Attributes:
        candidate: what was tried.
        size_bytes: of its file; None before it was made.
        sha256: of its file, or None.
        quality: None before it was measured.
        rounds: of speed, each with the reference's of the same round.
        dropped: why it was not followed to the end, in words, or None.
        quick: whether its quality was seen on a part of the texts alone.
    """

    candidate: Candidate
    size_bytes: int | None = None
    sha256: str | None = None
    quality: Quality | None = None
    rounds: tuple[Round, ...] = ()
    dropped: str | None = None
    quick: bool = False

    @property
    def predicted(self) -> bool:
        """Whether its speed was computed and not measured."""
        return any(one.speed.predicted for one in self.rounds)

    def rate(self, name: str) -> Spread:
        """Return a rate over the rounds; there is at least one."""
        return Spread.of([one.speed.rates[name] for one in self.rounds])

    def ratio(self, name: str) -> Spread:
        """Return a rate by the reference's, within each round."""
        return Spread.of([one.ratio(name) for one in self.rounds])


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
