"""Predictions in the place of measurements, where the target is a machine that is not here.

Quality does not depend on the machine, so a `PredictingBench` has its bench make and judge
candidates as ever. Speeds come from a predictor instead: `gguf_predict` computes them,
`onnx_predict` times here and scales.

Invariants: every speed that comes from here is marked as predicted, and stays so in
records and reports; nothing that was computed is called measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from compiler.progress import Progress
from compiler.targets.target import Target
from compiler.tune.bench import Bench
from compiler.tune.candidate import Candidate, Quality, Speed
from security.strictjson import JsonValue

# Speeds of candidates on the target, in their order; raises as Bench.speeds does.
Predictor = Callable[[Sequence[Candidate], Progress], list[Speed]]

# Of the bandwidth that reading alone reaches; the rest of a step does not overlap.
OVERLAP: Final = 0.7


class PredictingBench:
    """A bench that judges here and predicts the speed on a target."""

    def __init__(self, bench: Bench, target: Target, predict: Predictor) -> None:
        self._bench = bench
        self._target = target
        self._predict = predict

    @property
    def context(self) -> Mapping[str, JsonValue]:
        """That of the bench, and the target that speeds are predicted for."""
        return {**self._bench.context, "predicted_for": self._target.to_dict()}

    @property
    def reference(self) -> Candidate:
        """That of the bench."""
        return self._bench.reference

    @property
    def has_quick(self) -> bool:
        """That of the bench."""
        return self._bench.has_quick

    def prepare(self, progress: Progress) -> None:
        """Prepare the bench."""
        self._bench.prepare(progress)

    def make(self, candidate: Candidate, progress: Progress) -> Path:
        """Make the candidate's file."""
        return self._bench.make(candidate, progress)

    def discard(self, candidate: Candidate) -> None:
        """Remove the candidate's file."""
        self._bench.discard(candidate)

    def quality(self, candidate: Candidate, *, quick: bool, progress: Progress) -> Quality:
        """Judge the candidate; quality is measured here whatever the target."""
        return self._bench.quality(candidate, quick=quick, progress=progress)

    def speeds(self, candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
        """Predict the speeds."""
        return [replace(one, predicted=True) for one in self._predict(candidates, progress)]
