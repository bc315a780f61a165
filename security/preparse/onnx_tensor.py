"""Check one constant tensor of an ONNX file.

ONNX lets a tensor name a file to read its data from; those names have escaped their
directory time and again (CVE-2022-25882, CVE-2024-27318, CVE-2025-51480 and others),
and ONNX Runtime follows them even for a model that comes from memory. So external data
is refused wherever a tensor can stand: initializers, attributes, subgraphs.
"""

from __future__ import annotations

from dataclasses import dataclass

from security.preparse.limits import OnnxLimits
from security.preparse.onnx_schema import ELEMENT_TYPES, TENSOR, TYPED_DATA_FIELDS, ElementType
from security.preparse.protobuf import Message, Span, Value, Wire, WireReader
from security.preparse.refuse import refuse, shown

_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def check_tensor(reader: WireReader, span: Span, limits: OnnxLimits) -> tuple[str, int]:
    """Check the TensorProto at `span`; return its name and number of elements.

    Raises:
        UnsafeModelError: external data, unknown type, or data that is not exactly what
            dimensions and type ask for.
    """
    tensor = reader.message(span, TENSOR, "a tensor")
    name = ""
    if _NAME in tensor:
        name = reader.text(tensor[_NAME][0], limits.max_name_bytes, "a tensor's name")
    if _EXTERNAL_DATA in tensor or tensor.get(_DATA_LOCATION, [0])[0] != 0:
        refuse(
            "external-data",
            f"the tensor {shown(name)} keeps its data in another file; save the model with "
            "all tensors inside it",
        )
    kind_number = tensor.get(_DATA_TYPE, [0])[0]
    kind = ELEMENT_TYPES.get(kind_number) if isinstance(kind_number, int) else None
    if kind is None:
        refuse("element-type", f"the tensor {shown(name)} has an unsupported element type")
    elements = _elements(reader, tensor, name, limits)
    _DataCheck(reader, limits, f"the data of {shown(name)}").check(tensor, kind, elements)
    return name, elements


def _elements(reader: WireReader, tensor: Message, name: str, limits: OnnxLimits) -> int:
    what = f"the shape of {shown(name)}"
    elements = 1
    for dimension in reader.signed(tensor.get(_DIMS, []), limits.max_dimensions, what):
        if dimension < 0:
            refuse("negative-dimension", f"{what} has a negative dimension")
        elements *= dimension
        if elements > limits.max_tensor_elements:
            refuse("tensor-too-large", f"{what} is larger than allowed")
    return elements


@dataclass(frozen=True, slots=True)
class _DataCheck:
    """Compares what a tensor holds with what its shape and type ask for."""

    reader: WireReader
    limits: OnnxLimits
    what: str

    def check(self, tensor: Message, kind: ElementType, elements: int) -> None:
        holders = [field for field in (_RAW_DATA, *TYPED_DATA_FIELDS) if field in tensor]
        if not holders and elements == 0:
            return
        if len(holders) != 1:
            refuse("tensor-data", f"{self.what} stands in {len(holders)} fields instead of one")
        if holders[0] == _RAW_DATA:
            self._raw(tensor[_RAW_DATA][0], kind, elements)
        elif holders[0] != kind.field:
            refuse("tensor-data", f"{self.what} stands in the field of another type")
        else:
            self._typed(tensor[kind.field], kind, elements)

    def _raw(self, raw: Value, kind: ElementType, elements: int) -> None:
        wanted = (elements * kind.bits + 7) // 8
        if kind.bits == 0 or not isinstance(raw, Span) or raw.length != wanted:
            refuse("tensor-data", f"{self.what} is not exactly {wanted} bytes, as its shape says")

    def _typed(self, values: list[Value], kind: ElementType, elements: int) -> None:
        wire = TYPED_DATA_FIELDS[kind.field]
        if wire is Wire.BYTES:
            longest = max((v.length for v in values if isinstance(v, Span)), default=0)
            if longest > self.limits.max_string_bytes:
                refuse("string-too-long", f"a string in {self.what} is too long")
            present = len(values)
        else:
            present = self.reader.count(values, wire, self.limits.max_list_bytes, self.what)
        # Two 4-bit numbers share one entry.
        per_entry = 8 // kind.bits if 0 < kind.bits < 8 else 1
        if present != -(-elements // per_entry):
            refuse("tensor-data", f"{self.what} has {present} entries; its shape says {elements}")
