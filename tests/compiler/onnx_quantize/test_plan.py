from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import QuantizationError
from compiler.onnx_quantize.plan import KINDS, RANGES, ROUNDINGS, OnnxPlan

PLANS = st.builds(
    OnnxPlan,
    kind=st.sampled_from(KINDS),
    per_channel=st.booleans(),
    reduce_range=st.booleans(),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64, 128, 256]),
    rounding=st.sampled_from(ROUNDINGS),
    symmetric=st.booleans(),
    calibration=st.sampled_from(RANGES),
    percentile=st.floats(51, 100),
    embeddings=st.booleans(),
    excluded=st.lists(st.text(min_size=1), unique=True).map(lambda names: tuple(sorted(names))),
)


@given(PLANS)
def test_a_plan_survives_json(plan: OnnxPlan) -> None:
    assert OnnxPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.label


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "int3"}, "kind of a plan must be one of"),
        ({"bits": 5}, "bits"),
        ({"bits": True}, "bits of a plan must be a int"),
        ({"block": 48}, "block"),
        ({"rounding": "up"}, "rounding"),
        ({"calibration": "mean"}, "calibration"),
        ({"percentile": 20.0}, "percentile"),
        ({"percentile": float("nan")}, "percentile"),
        ({"per_channel": 1}, "per_channel of a plan must be a bool"),
        ({"excluded": ["b", "a"]}, "sorted"),
        ({"excluded": [1]}, "names of tensors"),
        ({"excluded": "ab"}, "excluded of a plan must be a list"),
        ({"unknown": 1}, "exactly the fields"),
    ],
)
def test_a_plan_that_means_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        OnnxPlan.from_dict({**OnnxPlan().to_dict(), **change})


def test_a_plan_with_a_field_missing_is_refused() -> None:
    values = OnnxPlan().to_dict()
    del values["block"]
    with pytest.raises(QuantizationError, match="exactly the fields"):
        OnnxPlan.from_dict(values)
