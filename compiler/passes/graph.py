"""Look at and rewrite graphs: names, uses, constants, subgraphs.

The nodes of a subgraph (If, Loop, Scan) see the names of the graphs around it, so uses are
counted and renamed all the way down. Names are unique over nested graphs in every file that
passes the pre-parser's rule that nothing is defined twice in a scope; a subgraph that
shadows an outer name is left alone for that name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

# Above this, an initializer is no number of the graph but a weight.
_LARGE_BYTES = 4096


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def swaps_axes(node: NodeProto) -> bool:
    """Tell whether a node transposes a matrix: a Transpose may also leave the axes as they are."""
    if node.op_type != "Transpose" or node.domain not in ("", "ai.onnx"):
        return False
    orders = [list(each.ints) for each in node.attribute if each.name == "perm"]
    # Without an order the axes are reversed.
    return all(order == [1, 0] for order in orders)


def uses(graph: GraphProto) -> Counter[str]:
    """Count how often each name is an input of a node or an output of a graph, all levels."""
    counts: Counter[str] = Counter(value.name for value in graph.output)
    for node in graph.node:
        counts.update(name for name in node.input if name)
        for inner in subgraphs(node):
            counts.update(uses(inner))
    return counts


def outer_names(node: NodeProto) -> set[str]:
    """Return the names that a node takes from its graph, through its subgraphs too."""
    names = {name for name in node.input if name}
    for inner in subgraphs(node):
        names |= set(uses(inner)) - defined(inner)
    return names


def defined(graph: GraphProto) -> set[str]:
    """Return the names that a graph itself defines."""
    names = {value.name for value in graph.input} | {item.name for item in graph.initializer}
    return names.union(*(set(node.output) for node in graph.node))


def rename_uses(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Let nodes that use a key use its value instead; outputs of `graph` keep their names.

    Chains (a to b, b to c) are followed to their end.
    """
    final = {old: _end(old, names) for old in names}
    _rename(graph, final)


def _end(name: str, names: Mapping[str, str]) -> str:
    while name in names:
        name = names[name]
    return name


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]
        for inner in subgraphs(node):
            own = defined(inner)
            _rename(inner, {old: new for old, new in names.items() if old not in own})
            _rename_outputs(inner, names, own)


def _rename_outputs(inner: GraphProto, names: Mapping[str, str], own: set[str]) -> None:
    for value in inner.output:
        if value.name in names and value.name not in own:
            value.name = names[value.name]


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the initializers that no caller can override, by name."""
    inputs = {value.name for value in graph.input}
    return {item.name: item for item in graph.initializer if item.name not in inputs}


def remove_initializers(graph: GraphProto, names: Iterable[str]) -> None:
    """Remove initializers in place, the others keeping their order and their memory."""
    gone = set(names)
    for index in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[index].name in gone:
            del graph.initializer[index]


def replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Make `nodes`, in order, the nodes of a graph."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def skeleton(model: ModelProto) -> ModelProto:
    """Return a copy in which large weights are inputs of their type and shape.

    What only looks at structure (shape inference, the checker) then needs no second and
    third copy of the weights.
    """
    small = ModelProto()
    small.ir_version = max(model.ir_version, 4)
    small.opset_import.extend(model.opset_import)
    graph, source = small.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    inputs = {value.name for value in source.input}
    for item in source.initializer:
        # Its size, not its content: reading that would copy it.
        if item.ByteSize() <= _LARGE_BYTES:
            graph.initializer.append(item)
        elif item.name not in inputs:
            value = graph.input.add(name=item.name)
            value.type.tensor_type.elem_type = item.data_type
            # An empty shape is a scalar's: it must be there even then.
            value.type.tensor_type.shape.SetInParent()
            for size in item.dims:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    return small
