"""Decide whether an ONNX file may be given to ONNX Runtime.

Refused, besides what the modules it calls refuse: versions of the format and of the
operator sets outside the supported range, foreign operator domains, functions (their
bodies would have to be checked under other rules: inline them), training information,
and anything that would make the runtime open another file.

Specification: https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

from types import MappingProxyType

from security.preparse.limits import OnnxLimits
from security.preparse.mapping import mapped
from security.preparse.onnx_graph import GraphWalk
from security.preparse.onnx_schema import (
    DOMAINS,
    MAX_IR_VERSION,
    MAX_OPSET,
    MICROSOFT,
    MIN_IR_VERSION,
    MIN_OPSET,
    MODEL,
    OPSET,
)
from security.preparse.protobuf import Message, Span, Value, WireReader
from security.preparse.refuse import refuse, shown
from security.preparse.summary import OnnxSummary

DEFAULT_LIMITS = OnnxLimits()

_IR_VERSION, _PRODUCER, _GRAPH, _OPSETS, _METADATA = 1, 2, 7, 8, 14
_TRAINING, _FUNCTIONS = 20, 25
_MICROSOFT_VERSION = 1


def check_onnx(fd: int, size: int, limits: OnnxLimits = DEFAULT_LIMITS) -> OnnxSummary:
    """Check the ONNX file behind a descriptor; weights are skipped, not read.

    Args:
        fd: a readable descriptor; its offset is neither used nor moved.
        size: the file's size in bytes.
        limits: bounds on counts, lengths and sizes.

    Raises:
        UnsafeModelError: with a stable `reason` for whatever is not acceptable.
    """
    with mapped(fd, size, limits.max_file_bytes) as data:
        reader = WireReader(data, limits.max_fields)
        # 1. The model's frame: versions, and what may not be there at all.
        model = reader.message(Span(0, size), MODEL, "the model")
        ir_version = _ir_version(model)
        for number, what in {_TRAINING: "training-info", _FUNCTIONS: "function"}.items():
            if number in model:
                refuse(what, f"the model has {what.replace('-', ' ')}s; remove or inline them")
        # 2. The operator sets, which the nodes are then held to.
        opsets = _opsets(reader, model, limits)
        walk = GraphWalk(reader, limits, opsets)
        walk.metadata(model.get(_METADATA, []))
        for number in (_PRODUCER, 3, 4, 6):
            for value in model.get(number, []):
                reader.text(value, limits.max_string_bytes, "a text of the model")
        # 3. The graph.
        graph = model.get(_GRAPH, [0])[0]
        if not isinstance(graph, Span):
            refuse("no-graph", "the file holds no graph: it is no ONNX model")
        inputs, outputs = walk.graph(graph, ())
        for declared in (*inputs, *outputs):
            if not declared.dtype:
                refuse("untyped-value", f"{shown(declared.name)} declares no type")
        producer = model.get(_PRODUCER)
        return OnnxSummary(
            ir_version=ir_version,
            opsets=MappingProxyType(opsets),
            producer=reader.text(producer[0], limits.max_string_bytes, "it") if producer else "",
            inputs=inputs,
            outputs=outputs,
            operators=MappingProxyType(dict(sorted(walk.operators.items()))),
            node_count=walk.node_count,
            initializer_count=walk.initializer_count,
            parameter_count=walk.parameter_count,
        )


def _ir_version(model: Message) -> int:
    version = model.get(_IR_VERSION, [0])[0]
    if not isinstance(version, int) or not MIN_IR_VERSION <= version <= MAX_IR_VERSION:
        refuse(
            "ir-version",
            f"this is no ONNX file of IR version {MIN_IR_VERSION} to {MAX_IR_VERSION}",
        )
    return version


def _opsets(reader: WireReader, model: Message, limits: OnnxLimits) -> dict[str, int]:
    imports = model.get(_OPSETS, [])
    if not 0 < len(imports) <= limits.max_opset_imports:
        refuse("opset", f"the model imports {len(imports)} operator sets")
    opsets: dict[str, int] = {}
    for item in imports:
        domain, version = _opset(reader, item, limits)
        if domain not in DOMAINS:
            refuse("operator-domain", f"the model imports the foreign domain {shown(domain)}")
        key = "" if domain == "ai.onnx" else domain
        if key in opsets:
            refuse("opset", f"the domain {shown(domain)} is imported twice")
        low, high = (MIN_OPSET, MAX_OPSET) if key == "" else (_MICROSOFT_VERSION,) * 2
        if not low <= version <= high:
            refuse("opset", f"version {version} of {shown(domain)} is not from {low} to {high}")
        opsets[key] = version
    if not opsets.keys() & {"", MICROSOFT}:
        refuse("opset", "the model imports no operator set")
    return opsets


def _opset(reader: WireReader, item: Value, limits: OnnxLimits) -> tuple[str, int]:
    if not isinstance(item, Span):
        refuse("wrong-wire-type", "an operator set is no message")
    message = reader.message(item, OPSET, "an operator set")
    domain = reader.text(message[1][0], limits.max_name_bytes, "a domain") if 1 in message else ""
    version = message.get(2, [0])[0]
    return domain, version if isinstance(version, int) else 0
