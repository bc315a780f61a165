"""Check the graph of an ONNX file: nodes, attributes, values and subgraphs.

Refused: operators outside the listed domains, references to values that nothing
before them defines, values defined twice, attributes whose content is not of the type
they declare, subgraphs nested deeper than the limit, types other than tensors.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from security.preparse.limits import OnnxLimits
from security.preparse.onnx_schema import (
    ATTRIBUTE,
    ATTRIBUTE_VALUE_FIELD,
    DIMENSION,
    DOMAINS,
    ELEMENT_TYPES,
    ENTRY,
    GRAPH,
    MICROSOFT,
    MICROSOFT_OPERATORS,
    NODE,
    SHAPE,
    TENSOR_TYPE,
    TYPE,
    VALUE_INFO,
)
from security.preparse.onnx_tensor import check_tensor
from security.preparse.protobuf import Message, Span, Value, WireReader
from security.preparse.refuse import refuse, shown
from security.preparse.summary import OnnxValue

_OPERATOR_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)
# Attribute fields whose content is checked further.
_TENSOR, _GRAPH, _STRINGS, _TENSORS, _GRAPHS = 5, 6, 9, 10, 11
_I64_SIGN = 1 << 63

# The names that each graph has defined, from the outermost to the innermost. Looked up
# one after the other, since joining them would cost a copy for every subgraph.
Scopes = tuple[set[str], ...]


@dataclass(slots=True)
class GraphWalk:
    """The state of one walk: what may be used, and what has been counted."""

    reader: WireReader
    limits: OnnxLimits
    opsets: dict[str, int]
    operators: Counter[str] = field(default_factory=Counter)
    node_count: int = 0
    initializer_count: int = 0
    parameter_count: int = 0

    def graph(
        self, span: Span, outer: Scopes
    ) -> tuple[tuple[OnnxValue, ...], tuple[OnnxValue, ...]]:
        """Check the GraphProto at `span`; return its inputs (less constants) and outputs.

        Args:
            span: where the message lies.
            outer: for each enclosing graph, the names that it has defined so far.
        """
        if len(outer) >= self.limits.max_graph_depth:
            refuse("graph-depth", f"graphs are nested deeper than {self.limits.max_graph_depth}")
        graph = self.reader.message(span, GRAPH, "a graph")
        if 15 in graph:
            refuse("sparse-tensor", "the graph has sparse initializers, which are not supported")
        self._texts(graph, {2: "a graph's name", 10: "a graph's description"})
        self.metadata(graph.get(16, []))
        constants = self._initializers(graph.get(5, []))
        inputs = self._values(graph.get(11, []), "input")
        defined = constants | {value.name for value in inputs}
        scopes = (*outer, defined)
        self._nodes(graph.get(1, []), scopes)
        outputs = self._values(graph.get(12, []), "output")
        if not outputs:
            refuse("no-output", "a graph declares no output")
        for value in outputs:
            if not _known(value.name, scopes):
                refuse("undefined-value", f"nothing computes the output {shown(value.name)}")
        for item in graph.get(13, []):
            self._value_info(item, "value")
        return tuple(value for value in inputs if value.name not in constants), tuple(outputs)

    def metadata(self, entries: list[Value]) -> None:
        """Check key-value entries: bounded, UTF-8; their content is never used."""
        if len(entries) > self.limits.max_metadata_entries:
            refuse("too-much-metadata", "there are more metadata entries than are allowed")
        for entry in entries:
            message = self.reader.message(_span(entry), ENTRY, "a metadata entry")
            self._texts(message, {1: "a metadata key", 2: "a metadata value"})

    def _texts(self, message: Message, names: dict[int, str]) -> None:
        for number, what in names.items():
            for value in message.get(number, []):
                self.reader.text(value, self.limits.max_string_bytes, what)

    def _name(self, value: Value, what: str) -> str:
        return self.reader.text(value, self.limits.max_name_bytes, what)

    def _initializers(self, spans: list[Value]) -> set[str]:
        names: set[str] = set()
        for item in spans:
            name = self._tensor(_span(item))
            if not name or name in names:
                refuse("duplicate-value", f"the initializer {shown(name)} is unnamed or repeated")
            names.add(name)
        return names

    def _tensor(self, span: Span) -> str:
        name, elements = check_tensor(self.reader, span, self.limits)
        self.initializer_count += 1
        if self.initializer_count > self.limits.max_initializers:
            refuse("too-many-tensors", "there are more constant tensors than are allowed")
        self.parameter_count += elements
        return name

    def _values(self, items: list[Value], what: str) -> list[OnnxValue]:
        if len(items) > self.limits.max_inputs:
            refuse(
                "too-many-values", f"a graph declares more than {self.limits.max_inputs} {what}s"
            )
        values = [self._value_info(item, what) for item in items]
        if len({value.name for value in values}) != len(values):
            refuse("duplicate-value", f"a graph declares an {what} twice")
        return values

    def _value_info(self, item: Value, what: str) -> OnnxValue:
        message = self.reader.message(_span(item), VALUE_INFO, f"an {what}")
        self._texts(message, {3: "a description"})
        self.metadata(message.get(4, []))
        name = self._name(message[1][0], f"the name of an {what}") if 1 in message else ""
        if not name:
            refuse("unnamed-value", f"an {what} has no name")
        if 2 not in message:
            return OnnxValue(name, "", None)
        kind = self.reader.message(_span(message[2][0]), TYPE, f"the type of {shown(name)}")
        if 1 not in kind:
            refuse("not-a-tensor", f"{shown(name)} is no tensor")
        tensor = self.reader.message(_span(kind[1][0]), TENSOR_TYPE, f"the type of {shown(name)}")
        number = tensor.get(1, [0])[0]
        element = ELEMENT_TYPES.get(number) if isinstance(number, int) else None
        if element is None:
            refuse("element-type", f"{shown(name)} has an unsupported element type")
        shape = self._shape(_span(tensor[2][0]), name) if 2 in tensor else None
        return OnnxValue(name, element.name, shape)

    def _shape(self, span: Span, name: str) -> tuple[int | str, ...]:
        what = f"the shape of {shown(name)}"
        dims = self.reader.message(span, SHAPE, what).get(1, [])
        if len(dims) > self.limits.max_dimensions:
            refuse("bad-rank", f"{what} has more than {self.limits.max_dimensions} dimensions")
        shape: list[int | str] = []
        for dim in dims:
            message = self.reader.message(_span(dim), DIMENSION, what)
            size = message.get(1, [None])[0]
            if isinstance(size, int):
                if size >= _I64_SIGN:
                    refuse("negative-dimension", f"{what} has a negative dimension")
                shape.append(size)
            else:
                shape.append(self._name(message[2][0], what) if 2 in message else "")
        return tuple(shape)

    def _nodes(self, items: list[Value], scopes: Scopes) -> None:
        defined = scopes[-1]
        for item in items:
            self.node_count += 1
            if self.node_count > self.limits.max_nodes:
                refuse("too-many-nodes", f"the model has more than {self.limits.max_nodes} nodes")
            node = self.reader.message(_span(item), NODE, "a node")
            operator = self._operator(node)
            names = [self._name(value, f"an input of {operator}") for value in node.get(1, [])]
            results = [self._name(value, f"an output of {operator}") for value in node.get(2, [])]
            if max(len(names), len(results)) > self.limits.max_node_inputs:
                refuse("too-many-values", f"{operator} has too many inputs or outputs")
            for name in names:
                if name and not _known(name, scopes):
                    refuse("undefined-value", f"{operator} uses {shown(name)} before it exists")
            self._attributes(node.get(5, []), operator, scopes)
            for name in results:
                if name and name in defined:
                    refuse("duplicate-value", f"{shown(name)} is computed twice")
                defined.add(name)
        # An empty name leaves an optional result out; it is not a value.
        defined.discard("")

    def _operator(self, node: Message) -> str:
        self._texts(node, {3: "a node's name", 6: "a node's description"})
        self.metadata(node.get(9, []))
        name = self._name(node[4][0], "an operator's name") if 4 in node else ""
        domain = self._name(node[7][0], "an operator's domain") if 7 in node else ""
        if domain not in DOMAINS:
            refuse("operator-domain", f"{shown(name)} is a custom operator of {shown(domain)}")
        if _OPERATOR_NAME.fullmatch(name) is None:
            refuse("operator-name", f"{shown(name)} is no operator's name")
        if domain == MICROSOFT and name not in MICROSOFT_OPERATORS:
            refuse("operator-name", f"the operator {MICROSOFT}:{name} is not on the list")
        if any(isinstance(value, Span) and value.length for value in node.get(8, [])):
            refuse("function", f"{name} refers to a function; inline functions first")
        if ("" if domain == "ai.onnx" else domain) not in self.opsets:
            refuse("opset", f"{name} is of the domain {shown(domain)}, which is not imported")
        label = f"{domain}:{name}" if domain == MICROSOFT else name
        self.operators[label] += 1
        return label

    def _attributes(self, items: list[Value], operator: str, scopes: Scopes) -> None:
        if len(items) > self.limits.max_attributes_per_node:
            refuse("too-many-attributes", f"{operator} has too many attributes")
        names: set[str] = set()
        for item in items:
            attribute = self.reader.message(_span(item), ATTRIBUTE, "an attribute")
            name = self._name(attribute[1][0], "an attribute's name") if 1 in attribute else ""
            if not name or name in names:
                refuse("attribute-name", f"an attribute of {operator} is unnamed or repeated")
            names.add(name)
            self._attribute_value(attribute, f"{operator}.{name}", scopes)

    def _attribute_value(self, attribute: Message, what: str, scopes: Scopes) -> None:
        if 22 in attribute or 23 in attribute:
            refuse("sparse-tensor", f"{shown(what)} is a sparse tensor, which is not supported")
        kind = attribute.get(20, [0])[0]
        holder = ATTRIBUTE_VALUE_FIELD.get(kind) if isinstance(kind, int) else None
        if holder is None:
            refuse("attribute-type", f"{shown(what)} has an unsupported type")
        # 1, 13 and 20 are name, description and type; nothing else may be there.
        if not attribute.keys() <= {1, 13, 20, holder}:
            refuse("attribute-type", f"{shown(what)} holds a value of another type than it says")
        for value in attribute.get(holder, []):
            if holder in (_TENSOR, _TENSORS):
                self._tensor(_span(value))
            elif holder in (_GRAPH, _GRAPHS):
                self.graph(_span(value), scopes)
            elif isinstance(value, Span) and value.length > self.limits.max_string_bytes:
                refuse("string-too-long", f"{shown(what)} is too long")


def _known(name: str, scopes: Scopes) -> bool:
    return any(name in scope for scope in scopes)


def _span(value: Value) -> Span:
    if not isinstance(value, Span):
        refuse("wrong-wire-type", "a number stands where a message is expected")
    return value
