"""Which forms of an ONNX encoder are worth trying.

Dynamic int8 is usually the fastest on a processor with dot products of bytes; static int8
saves the ranges while running; blocks of 8 or 4 bits are for weights that memory decides;
half precision halves the file. Where int8 breaks the promise, the tensors that it hurts
most stay in float: a twentieth of them, then more, up to a half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from compiler.onnx_quantize.plan import (
    BLOCKS,
    DYNAMIC_INT8,
    FLOAT16,
    GPTQ,
    HQQ,
    MIN_MAX,
    PERCENTILE,
    STATIC_INT8,
    OnnxPlan,
)
from compiler.progress import Progress
from compiler.tune.bench import CandidateFailedError
from compiler.tune.candidate import SETTINGS, Candidate
from security.bundle.manifest import ONNXRUNTIME
from security.strictjson import JsonValue

_SHARES: Final = (0.05, 0.15, 0.3, 0.5)


class OnnxSpace:
    """The candidates of one graph."""

    def __init__(
        self,
        settings: dict[str, JsonValue],
        *,
        calibrated: bool,
        reduce_range: bool,
        ranking: Callable[[OnnxPlan, Progress], list[str]] | None = None,
        runs_here: bool = True,
    ) -> None:
        """Set the space up.

        Args:
            settings: how candidates are run unless settings themselves are tried.
            calibrated: whether there are texts to calibrate with.
            reduce_range: whether the target saturates in products of bytes (x86 without VNNI).
            ranking: names tensors, worst first, for mixes; None makes none.
            runs_here: whether settings can be tried; a prediction knows nothing of them.
        """
        self._settings = settings
        self._calibrated = calibrated
        self._reduce = reduce_range
        self._ranking = ranking
        self._runs_here = runs_here
        self._ranked: dict[str, list[str]] = {}

    def seeds(self) -> list[Candidate]:
        """Return each kind of format once or twice."""
        dynamic = OnnxPlan(kind=DYNAMIC_INT8, reduce_range=self._reduce)
        plans = [
            dynamic,
            replace(dynamic, embeddings=True),
            replace(dynamic, per_channel=False),
            OnnxPlan(kind=BLOCKS, bits=8),
            OnnxPlan(kind=BLOCKS, bits=4),
            OnnxPlan(kind=BLOCKS, bits=4, rounding=HQQ),
            OnnxPlan(kind=FLOAT16),
        ]
        if self._calibrated:
            static = OnnxPlan(kind=STATIC_INT8, reduce_range=self._reduce)
            plans += [
                replace(static, calibration=MIN_MAX),
                replace(static, calibration=PERCENTILE),
                OnnxPlan(kind=BLOCKS, bits=4, rounding=GPTQ),
            ]
        return [self._candidate(plan, "whole") for plan in plans]

    def refine(
        self, kept: list[Candidate], left: list[Candidate], progress: Progress
    ) -> list[Candidate]:
        """Return the closest of those that break the promise with tensors left in float."""
        del kept
        found = []
        for closest in left[:2]:
            plan = OnnxPlan.from_dict(closest.plan)
            if plan.kind == FLOAT16 or plan.excluded:
                continue
            names = self._worst(plan, closest.plan_digest, progress)
            counts = {max(1, round(share * len(names))) for share in _SHARES if names}
            for count in sorted(counts):
                mixed = replace(plan, excluded=tuple(sorted(names[:count])))
                found.append(self._candidate(mixed, "mix"))
        return found

    def settings(self, best: Candidate) -> list[Candidate]:
        """Return fewer threads."""
        if not self._runs_here:
            return []
        threads = self._settings.get("threads", 1)
        most = threads if isinstance(threads, int) else 1
        counts = [count for count in sorted({1, most // 2}) if 0 < count < most]
        return [
            replace(
                best,
                family=SETTINGS,
                label=f"{best.label}; threads {count}",
                settings={**self._settings, "threads": count},
            )
            for count in counts
        ]

    def _worst(self, plan: OnnxPlan, key: str, progress: Progress) -> list[str]:
        if key not in self._ranked:
            self._ranked[key] = []
            if self._ranking is not None and self._calibrated:
                # A ranking that fails costs the mixes, not the search.
                try:
                    self._ranked[key] = self._ranking(plan, progress)
                except CandidateFailedError:
                    return []
        return self._ranked[key]

    def _candidate(self, plan: OnnxPlan, family: str) -> Candidate:
        label = plan.label if plan.per_channel else f"{plan.label} per tensor"
        return Candidate(ONNXRUNTIME, label, family, plan.to_dict(), self._settings)
