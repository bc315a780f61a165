"""What an evaluation found, in one value that goes to JSON and back.

The JSON form is what `casemate evaluate --json` prints and what `evaluation.json` beside
a run holds; the HTML report draws it. Invariant: `from_dict(to_dict(x)) == x`; an
infinite perplexity is the string "inf" in JSON, which has no infinities.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.evaluation.metrics import LabelFigures, ReliabilityBin

FORMAT = "casemate.evaluation/1"


@dataclass(frozen=True)
class Sample:
    """A text the model continued; `prompt` is what it was given, "" for nothing."""

    prompt: str
    text: str
    temperature: float


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of a checkpoint on one data set.

    Attributes:
        objective: what was measured, as in a recipe.
        examples: sequences or examples seen.
        targets: predictions that the loss is a mean of: tokens, tags, examples.
        seconds: wall time of the passes.
        loss: mean negative log-likelihood of a target, nats.
        metrics: figure by name: "perplexity", "bits_per_byte", "accuracy", ...
        intervals: 95% intervals by the metric's name.
        labels: names of the rows and columns of `confusion`.
        per_label: figures of each label; of each kind of span if labels are B-, I-, O.
        confusion: rows are true labels, columns predicted ones.
        reliability: confidence bins of the predicted labels.
        notes: what a reader must know, such as that part of the data was seen.
    """

    objective: str
    examples: int
    targets: int
    seconds: float
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    per_label: Mapping[str, LabelFigures] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "format": FORMAT,
            "objective": self.objective,
            "examples": self.examples,
            "targets": self.targets,
            "seconds": self.seconds,
            "loss": _to_json(self.loss),
            "metrics": {name: _to_json(value) for name, value in self.metrics.items()},
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "labels": list(self.labels),
            "per_label": {
                label: dataclasses.asdict(figures) for label, figures in self.per_label.items()
            },
            "confusion": [list(row) for row in self.confusion],
            "reliability": [dataclasses.asdict(one) for one in self.reliability],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> EvaluationResult:
        """Return the result a JSON form describes.

        Raises:
            ValueError: it is of another format, or values are missing or of another type.
        """
        if value.get("format") != FORMAT:
            raise ValueError(f"this is no {FORMAT}")
        try:
            return cls(
                objective=str(value["objective"]),
                examples=int(value["examples"]),
                targets=int(value["targets"]),
                seconds=float(value["seconds"]),
                loss=float(value["loss"]),
                metrics={str(name): float(one) for name, one in value["metrics"].items()},
                intervals={
                    str(name): (float(low), float(high))
                    for name, (low, high) in value["intervals"].items()
                },
                labels=tuple(str(label) for label in value["labels"]),
                per_label={
                    str(label): LabelFigures(**one) for label, one in value["per_label"].items()
                },
                confusion=tuple(tuple(int(cell) for cell in row) for row in value["confusion"]),
                reliability=tuple(ReliabilityBin(**one) for one in value["reliability"]),
                notes=tuple(str(note) for note in value["notes"]),
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"the evaluation is not complete: {problem}") from problem


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
