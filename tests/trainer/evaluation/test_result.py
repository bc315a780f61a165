"""A result goes to strict JSON and back."""

from __future__ import annotations

import json
import math

import pytest

from trainer.evaluation.metrics import LabelFigures, ReliabilityBin
from trainer.evaluation.result import EvaluationResult

RESULT = EvaluationResult(
    objective="classification",
    examples=4,
    targets=4,
    seconds=0.5,
    loss=0.25,
    metrics={"accuracy": 0.75, "perplexity": math.inf},
    intervals={"accuracy": (0.3, 0.95)},
    labels=("no", "yes"),
    per_label={"no": LabelFigures(1.0, 0.5, 2 / 3, 2, 1)},
    confusion=((1, 1), (0, 2)),
    reliability=(ReliabilityBin(0.0, 1.0, 4, 0.8, 0.75),),
    notes=("a note",),
)


def test_a_result_survives_json() -> None:
    text = json.dumps(RESULT.to_dict(), allow_nan=False)
    assert EvaluationResult.from_dict(json.loads(text)) == RESULT


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"casemate\.evaluation/1"):
        EvaluationResult.from_dict({**RESULT.to_dict(), "format": "other/1"})


@pytest.mark.parametrize(
    "damage",
    [{"loss": None}, {"metrics": []}, {"per_label": {"a": {"x": 1}}}, {"intervals": {"a": [1]}}],
)
def test_a_damaged_result_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        EvaluationResult.from_dict({**RESULT.to_dict(), **damage})


def test_a_missing_value_is_named() -> None:
    value = RESULT.to_dict()
    del value["targets"]
    with pytest.raises(ValueError, match="targets"):
        EvaluationResult.from_dict(value)
