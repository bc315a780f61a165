"""Tensor graphs: what is taken, what is refused by name, and what is batched."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.engine.batching import BatchLimits
from runtime.engine.errors import InvalidRequest
from runtime.engine.onnx import OnnxSession
from runtime.engine.tensor_engine import TensorDone, TensorEngine, TensorRequest
from runtime.engine.types import Failure
from runtime.worker.convert_tensors import tensor_message, tensor_request
from tests.support.tiny_models import tiny_onnx

PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> OnnxSession:
    return OnnxSession(str(tiny_onnx(tmp_path_factory.mktemp("tensor") / "t.onnx")), 1)


@pytest.fixture
def engine(session: OnnxSession) -> Iterator[TensorEngine]:
    subject = TensorEngine(session, BatchLimits())
    subject.start()
    yield subject
    subject.drain()


def run(engine: TensorEngine, request: TensorRequest) -> TensorDone | Failure:
    events: queue.Queue[TensorDone | Failure] = queue.Queue()
    engine.submit(request, events.put)
    return events.get(timeout=PATIENCE_SECONDS)


def rows(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


BAD_INPUTS = {
    "missing": ({}, "inputs"),
    "unknown": ({"x": rows(1), "z": rows(1)}, "inputs[1].name"),
    "wrong dtype": ({"x": rows(1).astype(np.float64)}, "inputs[0].datatype"),
    "wrong shape": ({"x": np.zeros((1, 5), np.float32)}, "inputs[0].shape"),
    "wrong rank": ({"x": np.zeros(4, np.float32)}, "inputs[0].shape"),
    "empty": ({"x": np.zeros((0, 4), np.float32)}, "inputs[0].shape"),
    "NaN": ({"x": np.full((1, 4), np.nan, np.float32)}, "inputs[0]"),
    "infinity": ({"x": np.full((1, 4), np.inf, np.float32)}, "inputs[0]"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_a_bad_input_is_named(engine: TensorEngine, name: str) -> None:
    inputs, field = BAD_INPUTS[name]
    failure = run(engine, TensorRequest(1, inputs))
    assert isinstance(failure, Failure)
    assert failure.field == field


def test_an_unknown_output_is_named(engine: TensorEngine) -> None:
    failure = run(engine, TensorRequest(1, {"x": rows(1)}, ("y", "nothing")))
    assert isinstance(failure, Failure)
    assert failure.field == "outputs[1].name"


def test_requests_are_batched_and_each_gets_its_rows(session: OnnxSession) -> None:
    engine = TensorEngine(session, BatchLimits())
    events: queue.Queue[TensorDone | Failure] = queue.Queue()
    inputs = {number: rows(number + 1, seed=number) for number in range(4)}
    for number, array in inputs.items():
        engine.submit(TensorRequest(number, {"x": array}), events.put)
    engine.start()
    engine.drain()
    assert engine.stats().steps == 1
    assert events.qsize() == 4
    for _ in inputs:
        done = events.get_nowait()
        assert isinstance(done, TensorDone)
        (alone,) = session.run({"x": inputs[done.id]}, ["y"])
        assert done.outputs["y"] == pytest.approx(alone, abs=1e-6)


def infer(**changes: Any) -> worker_pb2.Submit:
    work = worker_pb2.Submit(id=1)
    tensor = work.infer.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    for name, value in changes.items():
        if name == "shape":
            del tensor.shape[:]
            tensor.shape.extend(value)
        elif name == "raw":
            work.infer.raw_input_contents.extend(value)
        elif name == "twice":
            work.infer.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        elif name in ("name", "datatype"):
            setattr(tensor, name, value)
        else:
            getattr(tensor.contents, name).extend(value)
    return work


BAD_WIRE = {
    "too few elements": (infer(fp32_contents=[1.0]), "inputs[0]"),
    "no elements": (infer(), "inputs[0]"),
    "unknown datatype": (infer(datatype="FP8", raw=[b"1234"]), "inputs[0].datatype"),
    "negative dimension": (infer(shape=[-1, 4]), "inputs[0].shape"),
    "too many dimensions": (infer(shape=[1] * 9), "inputs[0].shape"),
    "huge dimensions": (infer(shape=[2**62, 2**62], raw=[b""]), "inputs[0]"),
    "raw too short": (infer(raw=[b"123"]), "inputs[0]"),
    "raw and typed": (infer(raw=[bytes(16)], fp32_contents=[0.0] * 4), "inputs[0].contents"),
    "raw of another count": (infer(raw=[bytes(16), b""]), "raw_input_contents"),
    "BOOL of 2": (infer(datatype="BOOL", raw=[b"\x00\x01\x02\x00"]), "inputs[0]"),
    "INT8 out of range": (infer(datatype="INT8", int_contents=[1, 2, 3, 300]), "inputs[0]"),
    "FP16 typed": (infer(datatype="FP16", fp32_contents=[0.0] * 4), "inputs[0]"),
    "BYTES cut short": (infer(datatype="BYTES", raw=[b"\x09\x00\x00\x00abc"]), "inputs[0]"),
    "BYTES not UTF-8": (infer(datatype="BYTES", bytes_contents=[b"\xff"] * 4), "inputs[0]"),
    "same input twice": (infer(fp32_contents=[0.0] * 4, twice=True), "inputs[1].name"),
}


@pytest.mark.parametrize("name", BAD_WIRE)
def test_a_bad_tensor_on_the_wire_is_named(name: str) -> None:
    work, field = BAD_WIRE[name]
    with pytest.raises(InvalidRequest) as caught:
        tensor_request(work)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("datatype", "contents", "values"),
    [
        ("INT8", "int_contents", [-128, 0, 1, 127]),
        ("UINT64", "uint64_contents", [0, 1, 2, 2**64 - 1]),
        ("BOOL", "bool_contents", [True, False, True, True]),
        ("FP64", "fp64_contents", [0.0, -1.5, 1e300, 2.0]),
        ("BYTES", "bytes_contents", [b"a", b"", "ü".encode(), b"dd"]),
    ],
)
def test_typed_and_raw_contents_mean_the_same(
    datatype: str, contents: str, values: list[Any]
) -> None:
    typed = tensor_request(infer(datatype=datatype, **{contents: values})).inputs["x"]
    if datatype == "BYTES":
        raw = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    else:
        raw = typed.astype(typed.dtype.newbyteorder("<")).tobytes()
    again = tensor_request(infer(datatype=datatype, raw=[raw])).inputs["x"]
    assert typed.shape == again.shape == (1, 4)
    assert (typed == again).all()


def test_an_answer_carries_the_graphs_datatype_and_shape(session: OnnxSession) -> None:
    values = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    message = tensor_message(TensorDone(9, {"y": values}, 0), session.outputs)
    response = message.completed.infer
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("FP32", [1, 3])
    assert response.raw_output_contents[0] == values.tobytes()
