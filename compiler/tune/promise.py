"""The quality that is promised: the bounds that a chosen form must keep.

A clause bounds one figure against the reference, which is the model as it was given. A
candidate that breaks a clause, or whose figure for a clause was not measured though the
user asked for it, is never chosen.

Named qualities are figures, not words: see `QUALITIES`. Their language-model bounds come
from what is visible in samples: below a divergence of 0.03 greedy answers part late, at
0.07 they part within a sentence but read the same, above 0.2 a small model makes errors
that it did not make before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final

from compiler.errors import SearchError
from compiler.tune.candidate import Quality
from security.bundle.fields import FieldError, Fields
from security.strictjson import JsonValue

_LAST_DIGIT: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Clause:
    """One bound: its name in a promise, the figure it bounds, and how."""

    name: str
    figure: str
    upper: bool
    low: float
    high: float
    words: str


CLAUSES: Final = (
    Clause("max_kl", "kl_mean", True, 0.0, 100.0, "mean KL divergence"),
    Clause("min_top1", "top1", False, 0.0, 1.0, "same first choice"),
    Clause("max_perplexity_ratio", "perplexity_ratio", True, 0.1, 1000.0, "perplexity ratio"),
    Clause("min_accuracy", "accuracy", False, 0.0, 1.0, "accuracy"),
    Clause("max_accuracy_drop", "accuracy_drop", True, -1.0, 1.0, "accuracy lost"),
    Clause("min_spearman", "spearman", False, -1.0, 1.0, "Spearman correlation"),
)


@dataclass(frozen=True, slots=True)
class Promise:
    """Bounds on quality; None leaves a figure free.

    Attributes:
        max_kl: mean Kullback-Leibler divergence from the reference, in nats.
        min_top1: share of positions with the reference's first choice.
        max_perplexity_ratio: perplexity by the reference's.
        min_accuracy: of the task.
        max_accuracy_drop: accuracy lost against the reference, as a share.
        min_spearman: rank correlation of similarities with the reference's.
        name: of the named quality, or "custom".
        insisted: clauses that must be measurable; others count only where they are.
    """

    max_kl: float | None = None
    min_top1: float | None = None
    max_perplexity_ratio: float | None = None
    min_accuracy: float | None = None
    max_accuracy_drop: float | None = None
    min_spearman: float | None = None
    name: str = "custom"
    insisted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for clause in CLAUSES:
            bound = getattr(self, clause.name)
            if bound is not None and not clause.low <= bound <= clause.high:
                raise SearchError(
                    f"{clause.name}: must be from {clause.low:g} to {clause.high:g}, not {bound:g}"
                )

    @property
    def bounds(self) -> dict[str, float]:
        """The clauses that bind, by name."""
        found = {clause.name: getattr(self, clause.name) for clause in CLAUSES}
        return {name: bound for name, bound in found.items() if bound is not None}

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON values: the name, and each clause or null."""
        found: dict[str, JsonValue] = {one.name: getattr(self, one.name) for one in CLAUSES}
        return {"name": self.name, **found, "insisted": sorted(self.insisted)}

    @classmethod
    def from_dict(cls, value: object, path: str = "promise") -> Promise:
        """Return the promise that `to_dict` wrote.

        Raises:
            FieldError: a field is missing, unknown or out of range.
        """
        given = Fields(value, path)
        name = given.name("name")
        insisted = given.texts("insisted", len(CLAUSES), 64)
        found: dict[str, float | None] = {}
        for clause in CLAUSES:
            null = given.is_null(clause.name)
            found[clause.name] = (
                None if null else given.number(clause.name, clause.low, clause.high)
            )
        given.done()
        if not set(insisted) <= set(found):
            raise FieldError(f"{path}.insisted: must name clauses")
        return cls(name=name, insisted=frozenset(insisted), **found)

    def excess(self, quality: Quality, clause: Clause) -> float:
        """Return how far a figure is beyond a clause: 0 kept, 1 by the bound's own size.

        Infinite where the figure is no finite number, or is missing and the clause was insisted on.
        """
        bound: float | None = getattr(self, clause.name)
        value: float | None = getattr(quality, clause.figure)
        if bound is None:
            return 0.0
        if value is None:
            return math.inf if clause.name in self.insisted else 0.0
        if not math.isfinite(value):
            return math.inf
        over = value - bound if clause.upper else bound - value
        # What is bounded from below lies near 1: what matters is what is missing from 1.
        scale = abs(bound) if clause.upper else 1.0 - bound
        # A figure that is the bound itself may come out of a subtraction a last digit beyond it.
        return over / max(scale, 1e-6) if over > _LAST_DIGIT else 0.0

    def broken(self, quality: Quality) -> tuple[str, ...]:
        """Return the clauses that a quality breaks, in words with figures; none if kept."""
        found = []
        for clause in CLAUSES:
            if self.excess(quality, clause) > 0:
                value = getattr(quality, clause.figure)
                shown = "was not measured" if value is None else f"is {value:.4g}"
                most = "at most" if clause.upper else "at least"
                bound = getattr(self, clause.name)
                found.append(f"{clause.words} {shown}, promised {most} {bound:g}")
        return tuple(found)

    def worst_excess(self, quality: Quality) -> float:
        """Return the largest excess over all clauses; 0 where the promise is kept."""
        return max(self.excess(quality, clause) for clause in CLAUSES)

    def unmeasured(self, quality: Quality) -> tuple[Clause, ...]:
        """Return the clauses that were insisted on and that a quality has no figure for."""
        return tuple(
            clause
            for clause in CLAUSES
            if clause.name in self.insisted and getattr(quality, clause.figure) is None
        )

    def measurable(self, quality: Quality) -> bool:
        """Tell whether any clause bounds a figure that was measured."""
        by_name = {clause.name: clause.figure for clause in CLAUSES}
        return any(getattr(quality, by_name[name]) is not None for name in self.bounds)


QUALITIES: Final[Mapping[str, Promise]] = MappingProxyType(
    {
        promise.name: promise
        for promise in (
            Promise(
                max_kl=0.005,
                max_perplexity_ratio=1.01,
                max_accuracy_drop=0.002,
                min_spearman=0.999,
                name="exact",
            ),
            Promise(
                max_kl=0.03,
                max_perplexity_ratio=1.05,
                max_accuracy_drop=0.005,
                min_spearman=0.99,
                name="near-lossless",
            ),
            Promise(
                max_kl=0.07,
                max_perplexity_ratio=1.12,
                max_accuracy_drop=0.01,
                min_spearman=0.98,
                name="balanced",
            ),
            Promise(
                max_kl=0.15,
                max_perplexity_ratio=1.25,
                max_accuracy_drop=0.02,
                min_spearman=0.95,
                name="small",
            ),
        )
    }
)


def make_promise(name: str | None, **bounds: float | None) -> Promise:
    """Return a named quality with some of its bounds replaced, or one of bounds alone.

    Args:
        name: one of QUALITIES, or None for nothing but the bounds.
        bounds: clauses by name; None leaves the named quality's.

    Raises:
        SearchError: no such quality or clause, a bound out of range, or nothing promised.
    """
    if name is not None and name not in QUALITIES:
        raise SearchError(f"there is no quality {name[:40]!r}; there are {', '.join(QUALITIES)}")
    base = QUALITIES[name] if name is not None else Promise()
    given = {key: value for key, value in bounds.items() if value is not None}
    known = {one.name for one in fields(Promise)} - {"name", "insisted"}
    if unknown := set(given) - known:
        raise SearchError(f"there is no bound {min(unknown)!r}; there are {', '.join(known)}")
    if not given:
        if name is None:
            raise SearchError("nothing is promised: name a quality, or give a bound")
        return base
    label = "custom" if name is None else f"{name}, changed"
    return Promise(**{**base.bounds, **given}, name=label, insisted=frozenset(given))
