"""The messages of ONNX that may occur, as the pre-parser's wire schemas.

Field numbers are those of onnx.proto (ONNX IR, up to version 14). A field that is not
here is refused: training information, functions, sparse tensors, device
configurations, references to function attributes, and every type but tensors. A few
are listed only to be refused under a name that says why.

Specification: https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

from dataclasses import dataclass

from security.preparse.protobuf import Field, Schema, Wire

_NUMBER = Field(Wire.VARINT)
_NUMBERS = Field(Wire.VARINT, repeated=True)
_FLOAT = Field(Wire.FIXED32)
_FLOATS = Field(Wire.FIXED32, repeated=True)
_DOUBLES = Field(Wire.FIXED64, repeated=True)
_ONE = Field(Wire.BYTES)
_MANY = Field(Wire.BYTES, repeated=True)

MODEL: Schema = {
    1: _NUMBER,  # ir_version
    2: _ONE,  # producer_name
    3: _ONE,  # producer_version
    4: _ONE,  # domain
    5: _NUMBER,  # model_version
    6: _ONE,  # doc_string
    7: _ONE,  # graph
    8: _MANY,  # opset_import
    14: _MANY,  # metadata_props
    20: _MANY,  # training_info, refused by name
    25: _MANY,  # functions, refused by name
}
GRAPH: Schema = {
    1: _MANY,  # node
    2: _ONE,  # name
    5: _MANY,  # initializer
    10: _ONE,  # doc_string
    11: _MANY,  # input
    12: _MANY,  # output
    13: _MANY,  # value_info
    15: _MANY,  # sparse_initializer, refused by name
    16: _MANY,  # metadata_props
}
NODE: Schema = {
    1: _MANY,  # input
    2: _MANY,  # output
    3: _ONE,  # name
    4: _ONE,  # op_type
    5: _MANY,  # attribute
    6: _ONE,  # doc_string
    7: _ONE,  # domain
    8: _ONE,  # overload
    9: _MANY,  # metadata_props
}
ATTRIBUTE: Schema = {
    1: _ONE,  # name
    2: _FLOAT,  # f
    3: _NUMBER,  # i
    4: _ONE,  # s
    5: _ONE,  # t
    6: _ONE,  # g
    7: _FLOATS,  # floats
    8: _NUMBERS,  # ints
    9: _MANY,  # strings
    10: _MANY,  # tensors
    11: _MANY,  # graphs
    13: _ONE,  # doc_string
    20: _NUMBER,  # type
    22: _ONE,  # sparse_tensor, refused by name
    23: _MANY,  # sparse_tensors, refused by name
}
# The field that holds the value of an attribute of each type.
ATTRIBUTE_VALUE_FIELD = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11}
TENSOR: Schema = {
    1: _NUMBERS,  # dims
    2: _NUMBER,  # data_type
    4: _FLOATS,  # float_data
    5: _NUMBERS,  # int32_data
    6: _MANY,  # string_data
    7: _NUMBERS,  # int64_data
    8: _ONE,  # name
    9: _ONE,  # raw_data
    10: _DOUBLES,  # double_data
    11: _NUMBERS,  # uint64_data
    12: _ONE,  # doc_string
    13: _MANY,  # external_data, refused by name
    14: _NUMBER,  # data_location, must be 0
    16: _MANY,  # metadata_props
}
VALUE_INFO: Schema = {1: _ONE, 2: _ONE, 3: _ONE, 4: _MANY}  # name, type, doc, metadata
TYPE: Schema = {1: _ONE, 6: _ONE}  # tensor_type, denotation
TENSOR_TYPE: Schema = {1: _NUMBER, 2: _ONE}  # elem_type, shape
SHAPE: Schema = {1: _MANY}  # dim
DIMENSION: Schema = {1: _NUMBER, 2: _ONE, 3: _ONE}  # dim_value, dim_param, denotation
OPSET: Schema = {1: _ONE, 2: _NUMBER}  # domain, version
ENTRY: Schema = {1: _ONE, 2: _ONE}  # key, value


@dataclass(frozen=True, slots=True)
class ElementType:
    """An element type: its name in the Open Inference Protocol, bits, and typed field."""

    name: str
    bits: int
    field: int


_FLOAT_DATA, _INT32_DATA, _STRING_DATA = 4, 5, 6
_INT64_DATA, _DOUBLE_DATA, _UINT64_DATA = 7, 10, 11

# By TensorProto.DataType. Complex numbers and the newest small floats are left out.
ELEMENT_TYPES = {
    1: ElementType("FP32", 32, _FLOAT_DATA),
    2: ElementType("UINT8", 8, _INT32_DATA),
    3: ElementType("INT8", 8, _INT32_DATA),
    4: ElementType("UINT16", 16, _INT32_DATA),
    5: ElementType("INT16", 16, _INT32_DATA),
    6: ElementType("INT32", 32, _INT32_DATA),
    7: ElementType("INT64", 64, _INT64_DATA),
    8: ElementType("BYTES", 0, _STRING_DATA),
    9: ElementType("BOOL", 8, _INT32_DATA),
    10: ElementType("FP16", 16, _INT32_DATA),
    11: ElementType("FP64", 64, _DOUBLE_DATA),
    12: ElementType("UINT32", 32, _UINT64_DATA),
    13: ElementType("UINT64", 64, _UINT64_DATA),
    16: ElementType("BF16", 16, _INT32_DATA),
    21: ElementType("UINT4", 4, _INT32_DATA),
    22: ElementType("INT4", 4, _INT32_DATA),
}
TYPED_DATA_FIELDS = {
    _FLOAT_DATA: Wire.FIXED32,
    _INT32_DATA: Wire.VARINT,
    _STRING_DATA: Wire.BYTES,
    _INT64_DATA: Wire.VARINT,
    _DOUBLE_DATA: Wire.FIXED64,
    _UINT64_DATA: Wire.VARINT,
}

# Domains of operators; "ai.onnx" is another name of "".
DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
MICROSOFT = "com.microsoft"
# Fused and quantized operators of ONNX Runtime that stay inside the graph. EPContext,
# which names a file to load, and the Python operators are what this list is for.
MICROSOFT_OPERATORS = frozenset(
    {
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "BiasSoftmax",
        "DequantizeLinear",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalization",
        "ExpandDims",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GatherBlockQuantized",
        "Gelu",
        "GroupQueryAttention",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
        "QuickGelu",
        "RotaryEmbedding",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Trilu",
    }
)
MIN_IR_VERSION, MAX_IR_VERSION = 3, 14
MIN_OPSET, MAX_OPSET = 7, 28
