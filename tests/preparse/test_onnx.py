"""The ONNX pre-parser: what passes, what is refused and under which word."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from security.errors import UnsafeModelError
from security.preparse import OnnxSummary, OnnxValue, check_onnx
from security.preparse.limits import OnnxLimits
from security.preparse.onnx_schema import ATTRIBUTE, ELEMENT_TYPES, GRAPH, MODEL, NODE, TENSOR
from tests.preparse.bad_onnx import CASES, field, valid
from tests.preparse.forge_gguf import as_descriptor
from tests.support.tiny_models import tiny_onnx


def check(data: bytes, limits: OnnxLimits | None = None) -> OnnxSummary:
    fd = as_descriptor(data)
    try:
        return check_onnx(fd, len(data), limits or OnnxLimits())
    finally:
        os.close(fd)


def test_a_file_written_by_the_onnx_package_passes(tmp_path: Path) -> None:
    summary = check(tiny_onnx(tmp_path / "tiny.onnx").read_bytes())
    assert summary.inputs == (OnnxValue("x", "FP32", ("batch", 4)),)
    assert summary.outputs == (OnnxValue("y", "FP32", ("batch", 3)),)
    assert summary.operators == {"Add": 1, "MatMul": 1, "Relu": 1}
    assert summary.opsets == {"": 17}
    assert (summary.node_count, summary.initializer_count, summary.parameter_count) == (3, 2, 15)


def test_subgraphs_constants_and_fused_operators_pass() -> None:
    summary = check(valid().SerializeToString())
    assert summary.operators["com.microsoft:Gelu"] == 1
    # The two branches of the If count too.
    assert summary.node_count == 7
    assert summary.parameter_count == 12 + 1 + 1


@pytest.mark.parametrize("name", CASES)
def test_bad_file_is_refused(name: str) -> None:
    build, reason = CASES[name]
    with pytest.raises(UnsafeModelError) as caught:
        check(build())
    assert caught.value.reason == reason, str(caught.value)


@pytest.mark.parametrize(
    ("number", "name"), [(n, kind.name) for n, kind in ELEMENT_TYPES.items() if kind.bits >= 8]
)
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_every_type_pass(number: int, name: str, raw: bool) -> None:
    model = valid()
    dtype = helper.tensor_dtype_to_np_dtype(number)
    array = np.ones((2, 3), dtype)
    if raw:
        tensor = numpy_helper.from_array(array, "k")
    else:
        tensor = helper.make_tensor("k", number, [2, 3], array.flatten().tolist())
    assert tensor.data_type == number, name
    model.graph.initializer.append(tensor)
    assert check(model.SerializeToString()).parameter_count == 14 + 6


def test_strings_and_empty_tensors_pass() -> None:
    model = valid()
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"]))
    model.graph.initializer.append(helper.make_tensor("e", TensorProto.FLOAT, [0, 4], []))
    model.graph.initializer.append(helper.make_tensor("n", TensorProto.INT4, [3], [1, 2, 3]))
    assert check(model.SerializeToString()).initializer_count == 6


def test_unpacked_numbers_are_counted_as_packed_ones() -> None:
    model = valid()
    del model.graph.initializer[0].float_data[:]
    # Field 4, wire type 5: one float at a time, as older writers have it.
    unpacked = model.graph.initializer[0].SerializeToString() + b"\x25\0\0\0\0" * 12
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString() + field(5, unpacked)
    model.ClearField("graph")
    assert check(model.SerializeToString() + field(7, graph)).parameter_count == 14


def test_the_schemas_know_no_field_that_onnx_does_not() -> None:
    """Field numbers are written by hand; onnx's own descriptors check them."""
    messages = {
        "ModelProto": MODEL,
        "GraphProto": GRAPH,
        "NodeProto": NODE,
        "AttributeProto": ATTRIBUTE,
        "TensorProto": TENSOR,
    }
    for name, schema in messages.items():
        real = {f.number: f for f in getattr(onnx, name).DESCRIPTOR.fields}
        assert schema.keys() <= real.keys()
        for number, ours in schema.items():
            assert ours.repeated == real[number].is_repeated, (name, number)


@pytest.mark.parametrize(
    ("field_name", "value", "reason"),
    [
        ("max_file_bytes", 10, "file-too-large"),
        ("max_nodes", 2, "too-many-nodes"),
        ("max_graph_depth", 1, "graph-depth"),
        ("max_fields", 20, "too-many-fields"),
        ("max_initializers", 1, "too-many-tensors"),
        ("max_tensor_elements", 5, "tensor-too-large"),
        ("max_dimensions", 1, "list-too-long"),
        ("max_node_inputs", 1, "too-many-values"),
        ("max_opset_imports", 1, "opset"),
        ("max_attributes_per_node", 1, "too-many-attributes"),
    ],
)
def test_limits_are_enforced(field_name: str, value: int, reason: str) -> None:
    with pytest.raises(UnsafeModelError) as caught:
        check(valid().SerializeToString(), OnnxLimits(**{field_name: value}))
    assert caught.value.reason == reason


def test_every_truncation_is_refused() -> None:
    data = valid().SerializeToString()
    for size in range(1, len(data)):
        with pytest.raises(UnsafeModelError):
            check(data[:size])


def test_time_is_bounded_by_the_number_of_fields() -> None:
    """Hundreds of thousands of empty nodes: the first is refused, or the budget ends."""
    graph = field(1, b"") * 300_000
    data = field(8, b"\x10\x11") + b"\x08\x08" + field(7, graph)
    started = time.process_time()
    with pytest.raises(UnsafeModelError):
        check(data)
    assert time.process_time() - started < 2.0


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    with pytest.raises(UnsafeModelError):
        check(data)
