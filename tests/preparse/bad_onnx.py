"""Bad ONNX files, each named after its one defect: {name: (file, reason expected)}.

Built with the `onnx` package as far as it goes; defects of the encoding itself are
put together byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

CASES: dict[str, tuple[Callable[[], bytes], str]] = {}

Spoil = Callable[[ModelProto], None]


def valid() -> ModelProto:
    """A small model that passes: y = relu(x @ w), with a Constant and an If."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [0.5] * 12)
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], b"\0\0\x80\x3f", raw=True)
    yes = helper.make_tensor("yes", TensorProto.BOOL, [1], [1])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Constant", [], ["c"], value=one),
        helper.make_node("Constant", [], ["condition"], value=yes),
        helper.make_node(
            "If", ["condition"], ["sum"], then_branch=branch("Add"), else_branch=branch("Sub")
        ),
        helper.make_node("Gelu", ["sum"], ["y"], domain="com.microsoft"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        initializer=[weights],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def branch(operator: str) -> GraphProto:
    """A subgraph that uses values of the graph around it."""
    node = helper.make_node(operator, ["xw", "c"], ["z"])
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    return helper.make_graph([node], "branch", [], [output])


def attribute(model: ModelProto, node: int) -> AttributeProto:
    return model.graph.node[node].attribute[0]


def bad(reason: str) -> Callable[[Spoil], Spoil]:
    """Register a function that puts one defect into a valid model."""

    def register(spoil: Spoil) -> Spoil:
        def build() -> bytes:
            model = valid()
            spoil(model)
            return bytes(model.SerializeToString())

        CASES[spoil.__name__] = (build, reason)
        return spoil

    return register


def bad_bytes(reason: str) -> Callable[[Callable[[bytes], bytes]], Callable[[bytes], bytes]]:
    """Register a function that spoils the encoding of a valid model."""

    def register(spoil: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        CASES[spoil.__name__] = (lambda: spoil(bytes(valid().SerializeToString())), reason)
        return spoil

    return register


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def external(tensor: TensorProto, location: str, **more: str) -> TensorProto:
    """Make a tensor read its data from a file."""
    for name in ("raw_data", "float_data", "int32_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


# --- external data, wherever a tensor can stand ------------------------------------


@bad("external-data")
def cve_2022_25882_external_data_outside_the_folder(model: ModelProto) -> None:
    external(model.graph.initializer[0], "../../../etc/passwd")


@bad("external-data")
def cve_2024_27318_external_data_by_absolute_path(model: ModelProto) -> None:
    external(model.graph.initializer[0], "/etc/passwd")


@bad("external-data")
def cve_2025_51480_external_data_written_over_a_file(model: ModelProto) -> None:
    external(model.graph.initializer[0], "weights.bin", offset="0", length="48")


@bad("external-data")
def cve_2026_27489_external_data_behind_a_symlink(model: ModelProto) -> None:
    external(model.graph.initializer[0], "link")


@bad("external-data")
def cve_2026_34445_external_data_with_odd_attributes(model: ModelProto) -> None:
    external(model.graph.initializer[0], "w", __class__="x", basepath="/")


@bad("external-data")
def cve_2026_34446_external_data_in_a_constant(model: ModelProto) -> None:
    external(attribute(model, 1).t, "hardlink")


@bad("external-data")
def cve_2026_34447_external_data_in_a_subgraph(model: ModelProto) -> None:
    tensor = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    attribute(model, 3).g.initializer.append(external(tensor, "link"))


@bad("external-data")
def cve_2026_28500_location_without_the_external_mark(model: ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="w.bin")


@bad("external-data")
def external_mark_without_a_location(model: ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


@bad("external-data")
def external_data_in_a_list_of_tensors(model: ModelProto) -> None:
    tensor = external(helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]), "v")
    model.graph.node[0].attribute.append(
        AttributeProto(name="many", type=AttributeProto.TENSORS, tensors=[tensor])
    )


@bad("function")
def external_data_in_a_function(model: ModelProto) -> None:
    tensor = external(helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]), "v")
    node = helper.make_node("Constant", [], ["o"], value=tensor)
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("d", "F", [], ["o"], [node], opsets))


@bad("sparse-tensor")
def external_data_in_a_sparse_initializer(model: ModelProto) -> None:
    values = external(helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]), "v")
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


@bad("sparse-tensor")
def external_data_in_a_sparse_constant(model: ModelProto) -> None:
    values = external(helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]), "v")
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, indices, [4])
    target = attribute(model, 1)
    target.Clear()
    target.CopyFrom(helper.make_attribute("sparse_value", sparse))


@bad("training-info")
def external_data_in_training_information(model: ModelProto) -> None:
    info = onnx.TrainingInfoProto()
    tensor = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    info.algorithm.initializer.append(external(tensor, "v"))
    model.training_info.append(info)


# --- operators and functions ------------------------------------------------------


@bad("operator-domain")
def custom_operator(model: ModelProto) -> None:
    model.graph.node[0].domain = "evil.ops"


@bad("operator-domain")
def import_of_a_foreign_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))


@bad("operator-name")
def operator_that_loads_a_file(model: ModelProto) -> None:
    model.graph.node[4].op_type = "EPContext"


@bad("operator-name")
def operator_named_like_a_path(model: ModelProto) -> None:
    model.graph.node[0].op_type = "../MatMul"


@bad("function")
def function_of_the_standard_domain(model: ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "MatMul", ["a"], ["b"], [node], opsets))


@bad("function")
def node_that_names_an_overload(model: ModelProto) -> None:
    model.graph.node[0].overload = "v2"


@bad("unknown-field")
def reference_to_a_function_attribute(model: ModelProto) -> None:
    attribute(model, 1).ref_attr_name = "value"


@bad("opset")
def domain_that_is_not_imported(model: ModelProto) -> None:
    del model.opset_import[1]


@bad("opset")
def opset_of_the_far_future(model: ModelProto) -> None:
    model.opset_import[0].version = 999


@bad("opset")
def opset_minus_one(model: ModelProto) -> None:
    model.opset_import[0].version = -1


@bad("opset")
def opset_imported_twice(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))


@bad("opset")
def no_opset(model: ModelProto) -> None:
    del model.opset_import[:]


@bad("ir-version")
def format_version_of_the_far_future(model: ModelProto) -> None:
    model.ir_version = 99


# --- tensors ----------------------------------------------------------------------


@bad("tensor-data")
def raw_data_shorter_than_the_shape(model: ModelProto) -> None:
    tensor = attribute(model, 1).t
    tensor.raw_data = tensor.raw_data[:-1]


@bad("tensor-data")
def shape_larger_than_the_data(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1_000_000


@bad("tensor-data")
def data_in_two_fields(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = bytes(48)


@bad("tensor-data")
def data_in_the_field_of_another_type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = TensorProto.INT64


@bad("tensor-data")
def tensor_without_data(model: ModelProto) -> None:
    model.graph.initializer[0].ClearField("float_data")


@bad("tensor-data")
def strings_in_raw_data(model: ModelProto) -> None:
    tensor = attribute(model, 1).t
    tensor.data_type = TensorProto.STRING


@bad("tensor-too-large")
def dimension_product_overflow(model: ModelProto) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([2**32, 2**32, 2**32])


@bad("negative-dimension")
def negative_dimension(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -4


@bad("list-too-long")
def tensor_of_a_hundred_dimensions(model: ModelProto) -> None:
    model.graph.initializer[0].dims.extend([1] * 100)


@bad("element-type")
def tensor_of_unknown_type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 77


@bad("unknown-field")
def tensor_in_segments(model: ModelProto) -> None:
    model.graph.initializer[0].segment.end = 3


@bad("duplicate-value")
def initializer_that_occurs_twice(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


# --- graph ------------------------------------------------------------------------


@bad("undefined-value")
def input_that_nothing_defines(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "ghost"


@bad("undefined-value")
def node_before_its_input_exists(model: ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


@bad("undefined-value")
def node_that_feeds_itself(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "xw"


@bad("undefined-value")
def output_that_nothing_computes(model: ModelProto) -> None:
    model.graph.output[0].name = "ghost"


@bad("duplicate-value")
def value_that_is_computed_twice(model: ModelProto) -> None:
    model.graph.node[1].output[0] = "xw"


@bad("no-output")
def graph_without_outputs(model: ModelProto) -> None:
    del model.graph.output[:]


@bad("no-graph")
def model_without_a_graph(model: ModelProto) -> None:
    model.ClearField("graph")


@bad("untyped-value")
def input_without_a_type(model: ModelProto) -> None:
    model.graph.input[0].ClearField("type")


@bad("unknown-field")
def input_that_is_a_sequence(model: ModelProto) -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(element))


@bad("not-a-tensor")
def input_of_no_type_at_all(model: ModelProto) -> None:
    model.graph.input[0].type.ClearField("tensor_type")
    model.graph.input[0].type.denotation = "x"


@bad("unnamed-value")
def input_without_a_name(model: ModelProto) -> None:
    model.graph.input[0].name = ""


@bad("too-much-metadata")
def metadata_of_a_thousand_entries(model: ModelProto) -> None:
    for number in range(1000):
        model.metadata_props.add(key=f"k{number}", value="v")


@bad("negative-dimension")
def input_with_a_negative_dimension(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -4


@bad("graph-depth")
def graphs_nested_twenty_deep(model: ModelProto) -> None:
    graph = branch("Add")
    for _ in range(20):
        node = helper.make_node("If", ["condition"], ["z"], then_branch=graph, else_branch=graph)
        value = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
        # One branch alone, or the file would have 2**20 graphs.
        del node.attribute[1:]
        graph = helper.make_graph([node], "deep", [], [value])
    attribute(model, 3).g.CopyFrom(graph)


@bad("attribute-type")
def attribute_that_holds_another_type_than_it_says(model: ModelProto) -> None:
    attribute(model, 1).type = AttributeProto.GRAPH


@bad("attribute-type")
def attribute_without_a_type(model: ModelProto) -> None:
    attribute(model, 1).ClearField("type")


@bad("attribute-name")
def attribute_that_occurs_twice(model: ModelProto) -> None:
    model.graph.node[1].attribute.append(attribute(model, 1))


@bad("string-too-long")
def operator_name_of_a_megabyte(model: ModelProto) -> None:
    model.graph.node[0].op_type = "M" * (1 << 20)


@bad("nul-in-string")
def value_name_that_a_c_string_cuts_short(model: ModelProto) -> None:
    model.graph.node[0].name = "a\0b"


# --- encoding ---------------------------------------------------------------------


@bad_bytes("repeated-field")
def second_graph_that_a_decoder_would_merge(data: bytes) -> bytes:
    return data + field(7, b"")


@bad_bytes("unknown-field")
def unknown_field(data: bytes) -> bytes:
    return data + field(99, b"x")


@bad_bytes("unknown-field")
def field_number_zero(data: bytes) -> bytes:
    return data + b"\2\0"


@bad_bytes("wrong-wire-type")
def group(data: bytes) -> bytes:
    return data + varint(7 << 3 | 3) + varint(7 << 3 | 4)


@bad_bytes("wrong-wire-type")
def graph_that_is_a_number(data: bytes) -> bytes:
    return field(2, b"p") + varint(7 << 3) + b"\1"


@bad_bytes("truncated")
def length_beyond_the_file(data: bytes) -> bytes:
    return data + varint(6 << 3 | 2) + varint(2**40)


@bad_bytes("truncated")
def length_minus_one(data: bytes) -> bytes:
    return data + varint(6 << 3 | 2) + varint(2**64 - 1)


@bad_bytes("bad-varint")
def varint_of_eleven_bytes(data: bytes) -> bytes:
    return data + varint(5 << 3) + b"\x80" * 10 + b"\1"


@bad_bytes("bad-varint")
def varint_over_64_bits(data: bytes) -> bytes:
    return data + varint(5 << 3) + b"\xff" * 9 + b"\x7f"


@bad_bytes("bad-varint")
def varint_cut_by_the_end(data: bytes) -> bytes:
    return data + b"\xa8"


@bad_bytes("invalid-utf8")
def producer_that_is_not_utf8(data: bytes) -> bytes:
    return data + field(2, b"\xff")


@bad_bytes("bad-packing")
def packed_floats_cut_in_a_number(data: bytes) -> bytes:
    model = valid()
    del model.graph.initializer[0].float_data[:]
    tensor = model.graph.initializer[0].SerializeToString() + field(4, bytes(47))
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString() + field(5, tensor)
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + field(7, graph)


@bad_bytes("truncated")
def file_cut_in_the_middle(data: bytes) -> bytes:
    return data[: len(data) // 2]


@bad_bytes("wrong-wire-type")
def text_instead_of_a_model(data: bytes) -> bytes:
    return b"#!/bin/sh\necho hello\n"
