"""What a worker says of a failure: recognised, put into the front's words, or left out."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.engine.errors import InvalidRequest
from runtime.engine.tensors import TensorSpec, check_inputs, check_outputs
from runtime.errors import FailureReason, WorkFailed
from runtime.front.errors import as_refusal
from runtime.worker.streams import failure_from_wire

BAD = FailureReason.INVALID_ARGUMENT
SECRET = "the patient is called Meier"

TOLD = {
    ("prompt", "900 tokens are needed and the context has 256"): (
        "prompt: 900 tokens are needed and the context has 256"
    ),
    ("max_tokens", "max_tokens must be at most 64 for this model"): (
        "max_tokens: is over the model's 64"
    ),
    ("inputs[3]", "the text has 301 tokens; the model takes 256"): (
        "inputs[3]: the text has 301 tokens; the model takes 256"
    ),
    ("inputs[0].shape", "shape [1, 2] does not fit the model's [-1, 4]"): (
        "inputs[0].shape: the shape does not fit the model's; "
        "ModelMetadata tells what the model takes"
    ),
    ("inputs[0]", "the tensor holds NaN or infinity"): (
        "inputs[0]: the tensor holds NaN or infinity"
    ),
    ("sampling.top_p", "something else"): "sampling.top_p: the model cannot take it",
    ("", "the request is too large for the worker"): "the request is too large for the worker",
    ("", "something else"): "the model cannot take this request",
}


@pytest.mark.parametrize(("given_", "told"), TOLD.items(), ids=list(TOLD.values()))
def test_a_known_problem_is_told(given_, told):
    refusal = as_refusal(WorkFailed(BAD, *given_))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (refusal.message, refusal.field) == (told, given_[0])


HOSTILE = {
    "a detail": ("prompt", SECRET),
    "a field": (SECRET, "the tensor is empty"),
    "a field with a tail": (f"prompt {SECRET}", ""),
    "a field on two lines": (f"prompt\n{SECRET}", ""),
    "an index": (f"inputs[{SECRET}]", ""),
    "a long index": ("inputs[123456789]", ""),
    "a shape": ("inputs[0].shape", f"shape {SECRET} does not fit the model's {SECRET}"),
    "a datatype": ("inputs[0].datatype", f"the model wants {SECRET}"),
    "a name": ("inputs", f"input {SECRET} is missing"),
    "a count": ("prompt", f"{SECRET} tokens are needed and the context has 1"),
    "a long count": ("prompt", f"{'7' * 30} tokens are needed and the context has 1"),
    "a count in other digits": ("prompt", "٧ tokens are needed and the context has 1"),
    "a tail": ("prompt", f"the text has no tokens{SECRET}"),
}


@pytest.mark.parametrize("reason", FailureReason)
@pytest.mark.parametrize(("field", "detail"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_workers_words_reach_neither_client_nor_log(reason, field, detail):
    refusal = as_refusal(WorkFailed(reason, field, detail))
    said = refusal.message + refusal.field + refusal.detail + str(refusal)
    assert "Meier" not in said
    assert "7777" not in said
    assert "123456789" not in said
    assert "٧" not in said
    assert b"Meier" not in refusal.status_details()


@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from(FailureReason))
@example("{0}", "{1} tokens are needed and the context has {0}", BAD)
def test_whatever_a_worker_says_the_words_are_ours(field, detail, reason):
    mark = "\u2603"
    refusal = as_refusal(WorkFailed(reason, field + mark, detail + mark))
    assert mark not in refusal.message + refusal.field + refusal.detail
    assert refusal.message.isascii()
    assert refusal.message.isprintable()


def test_a_failure_from_the_wire_is_told_in_the_same_words():
    failed = worker_pb2.Failed(
        id=1,
        reason=worker_pb2.FAILURE_REASON_INVALID_ARGUMENT,
        field="texts[2]",
        detail="12 tokens are needed and the context has 8",
    )
    refusal = as_refusal(failure_from_wire(failed))
    assert refusal.message == "texts[2]: 12 tokens are needed and the context has 8"


def test_what_the_engine_says_of_tensors_is_recognised():
    import numpy as np

    spec = TensorSpec("x", "FP32", (-1, 2))
    zeros = np.zeros((1, 2), dtype=np.float32)
    wrong: tuple[dict[str, np.ndarray], ...] = (
        {"y": zeros},
        {},
        {"x": zeros.astype(np.int32)},
        {"x": np.zeros((1, 3), dtype=np.float32)},
        {"x": np.full((1, 2), np.nan, dtype=np.float32)},
    )
    for inputs in wrong:
        with pytest.raises(InvalidRequest) as caught:
            check_inputs((spec,), inputs)
        told(caught.value)
    with pytest.raises(InvalidRequest) as caught:
        check_outputs((spec,), ("z",))
    told(caught.value)


def told(error: InvalidRequest) -> None:
    """The engine's words are recognised, and the field with them."""
    refusal = as_refusal(WorkFailed(BAD, error.field, str(error)))
    assert refusal.field == error.field
    assert "cannot take" not in refusal.message
