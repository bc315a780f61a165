"""One candidate in compilation.json: what it is, and every figure that was taken of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from compiler.tune.candidate import FAMILIES, Candidate, Quality, Spread, Trial
from security.bundle.fields import FieldError, Fields
from security.bundle.manifest import LLAMA_CPP, ONNXRUNTIME
from security.strictjson import JsonValue

_MOST: Final = 1e15
_LEAST_RATIO: Final = 1e-9
_MAX_INTEGER: Final = 2**53 - 1
_MAX_TEXT: Final = 2000
_MAX_RATES: Final = 64


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate over the rounds of a candidate.

    Attributes:
        rate: per second.
        ratio: by the reference's of the same round.
    """

    rate: Spread
    ratio: Spread


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate and what is known of it.

    Attributes:
        candidate: its plan and settings.
        size_bytes: of its file, or None if none was made.
        sha256: of its file, or None.
        quality: against the reference, or None.
        quick: whether it was seen on a part of the texts alone.
        rates: by name; empty if it was never timed.
        load_seconds: median, or None.
        peak_mib: largest, or None.
        predicted: whether rates and memory were computed and not measured.
        dropped: why it was not followed to the end, or None.
    """

    candidate: Candidate
    size_bytes: int | None
    sha256: str | None
    quality: Quality | None
    quick: bool
    rates: Mapping[str, Rate]
    load_seconds: float | None
    peak_mib: float | None
    predicted: bool
    dropped: str | None

    @classmethod
    def of(cls, trial: Trial) -> Entry:
        """Return the entry of a trial."""
        speeds = [one.speed for one in trial.rounds]
        loads = [one.load_seconds for one in speeds if one.load_seconds is not None]
        peaks = [one.peak_mib for one in speeds if one.peak_mib is not None]
        names = sorted(speeds[0].rates) if speeds else []
        return cls(
            trial.candidate,
            trial.size_bytes,
            trial.sha256,
            trial.quality,
            trial.quick,
            {name: Rate(trial.rate(name), trial.ratio(name)) for name in names},
            Spread.of(loads).median if loads else None,
            max(peaks) if peaks else None,
            trial.predicted,
            trial.dropped,
        )

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON values."""
        one = self.candidate
        rates = {
            name: {"rate": _spread(rate.rate), "ratio": _spread(rate.ratio)}
            for name, rate in self.rates.items()
        }
        return {
            "digest": one.digest,
            "backend": one.backend,
            "label": one.label,
            "family": one.family,
            "plan": dict(one.plan),
            "settings": dict(one.settings),
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "quality": None if self.quality is None else self.quality.to_dict(),
            "quick": self.quick,
            "rates": rates,
            "load_seconds": self.load_seconds,
            "peak_mib": self.peak_mib,
            "predicted": self.predicted,
            "dropped": self.dropped,
        }

    @classmethod
    def read(cls, given: Fields, path: str) -> Entry:
        """Return the entry that `to_dict` wrote.

        Raises:
            FieldError: a field is missing, unknown or unacceptable.
        """
        backend = given.choice("backend", (LLAMA_CPP, ONNXRUNTIME))
        label, family = given.name("label"), given.choice("family", FAMILIES)
        plan, settings = _object(given, "plan", path), _object(given, "settings", path)
        candidate = Candidate(backend, label, family, plan, settings)
        if given.sha256("digest") != candidate.digest:
            raise FieldError(f"{path}.digest: is not that of the plan and settings")
        quality = given.raw("quality")
        entry = cls(
            candidate,
            None if given.is_null("size_bytes") else given.integer("size_bytes", 0, _MAX_INTEGER),
            None if given.is_null("sha256") else given.sha256("sha256"),
            None if quality is None else Quality.from_dict(quality, f"{path}.quality"),
            given.boolean("quick"),
            _rates(given, path),
            None if given.is_null("load_seconds") else given.number("load_seconds", 0.0, _MOST),
            None if given.is_null("peak_mib") else given.number("peak_mib", 0.0, _MOST),
            given.boolean("predicted"),
            given.optional_text("dropped", _MAX_TEXT),
        )
        given.done()
        return entry


def _spread(one: Spread) -> dict[str, JsonValue]:
    return {"median": one.median, "low": one.low, "high": one.high, "count": one.count}


def _object(given: Fields, name: str, path: str) -> Mapping[str, Any]:
    value = given.raw(name)
    if not isinstance(value, dict):
        raise FieldError(f"{path}.{name}: must be an object")
    return value


def _rates(given: Fields, path: str) -> dict[str, Rate]:
    raw = _object(given, "rates", path)
    if len(raw) > _MAX_RATES:
        raise FieldError(f"{path}.rates: must have at most {_MAX_RATES} rates")
    rates = Fields(raw, f"{path}.rates")
    found = {}
    for name in raw:
        one = rates.nested(name)
        found[name] = Rate(_read_spread(one, "rate"), _read_spread(one, "ratio"))
        one.done()
    return found


def _read_spread(given: Fields, name: str) -> Spread:
    one = given.nested(name)
    # A ratio of nothing has no logarithm, which the picture is drawn by.
    least = _LEAST_RATIO if name == "ratio" else 0.0
    low, high = one.number("low", least, _MOST), one.number("high", least, _MOST)
    spread = Spread(one.number("median", low, high), low, high, one.integer("count", 1, 10_000))
    one.done()
    return spread
