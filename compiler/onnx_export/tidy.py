"""Make a traced graph ours: named axes, no weights inside, nothing that is not used.

    1. Weights are values that the graph uses and does not hold; equal ones come once.
       A matrix that is only used transposed is stored transposed.
    2. Positions are counted from the mask, as transformers counts them when it
       generates, so that callers need not.
    3. Outputs that nobody asked for go, and what only computed them.
    4. Texts of the tracer (source lines, paths, its own name) go.

Invariant: the graph computes what it did; the same trace gives the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from casemate import __version__
from compiler.encoder.names import ATTENTION_MASK, EMBEDDING, LOGITS
from compiler.encoder.pooling import add_embedding, add_normalized
from compiler.errors import ExportError
from compiler.onnx_export.added import add_dense_layers, last_token
from compiler.onnx_export.graph import BATCH, ModelBuilder
from compiler.onnx_export.optimum_job import Finish
from compiler.onnx_file import Weight
from compiler.passes.graph import swaps_axes
from compiler.weights.reading import Weights

_POSITIONS = "position_ids"
_PREFIX = "casemate_"
_AXES = (("_length", ""), ("batch_size", "batch"), ("encoder_sequence", "sequence"))
_PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True, slots=True)
class Tidied:
    """A graph and its weights.

    Attributes:
        model: without weights.
        weights: name of a value to the name of the module's tensor, and whether the
            value is that transposed.
    """

    model: ModelProto
    weights: Mapping[str, tuple[str, bool]]


def tidy(
    model: ModelProto,
    inputs: list[str],
    outputs: list[str],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    opset: int,
    fold_positions: bool,
) -> Tidied:
    """Return a traced graph as this project writes graphs.

    Args:
        model: as torch exports it without parameters: they are inputs. It is used up.
        inputs: the inputs that are none.
        outputs: those to keep.
        shapes: of the tensors of the module, by name.
        opset: of the trace.
        fold_positions: whether to compute `position_ids` in the graph.

    Raises:
        ExportError: the graph uses a weight that the module does not have.
    """
    graph = model.graph
    names = {value.name for value in graph.input} - set(inputs)
    unknown = sorted(names - set(shapes))
    if unknown:
        raise ExportError(f"the traced graph uses a weight of no name: {unknown[0]}")
    if fold_positions:
        _fold_positions(graph)
    _keep(graph.input, [name for name in inputs if name not in names])
    _keep(graph.output, outputs)
    _drop_identities(graph, names)
    _drop_unused(graph)
    turned = _turn(graph, {name for name in names if len(shapes[name]) == 2})
    used = {name for node in graph.node for name in node.input}
    for value in (*graph.input, *graph.output):
        _rename_axes(value)
    _strip(graph)
    imports = [helper.make_opsetid("", opset)]
    made = helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=helper.find_min_ir_version_for(imports),
        producer_name="casemate",
        producer_version=__version__,
    )
    weights = {name: (name, False) for name in sorted(names & used - set(turned))}
    weights |= {value: (name, True) for name, value in sorted(turned.items())}
    return Tidied(made, dict(sorted(weights.items())))


def add_before_output(model: ModelProto, stored: Weights, count: int) -> dict[str, Weight]:
    """Put the dense layers of finetuning before the last matrix product of `logits`.

    Returns:
        Their weights.

    Raises:
        ExportError: the output layer is no matrix product.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    node = makers[LOGITS]
    while node.op_type not in _PRODUCTS:
        before = [makers[name] for name in node.input if name in makers]
        if not before:
            raise ExportError("the output layer is no matrix product; layers cannot be added")
        node = before[0]
    width = stored.tensor("task_layers.0.dense.bias").shape[0]
    builder = ModelBuilder(stored, _PREFIX)
    node.input[0] = add_dense_layers(builder, node.input[0], "task_layers", count, width)
    place = list(graph.node).index(node)
    nodes = [*graph.node[:place], *builder.nodes, *graph.node[place:]]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(builder.constants)
    return builder.weights


def add_finish(model: ModelProto, stored: Weights, finish: Finish) -> dict[str, Weight]:
    """Turn states of tokens into one vector, or into logits of classes.

    Returns:
        The weights of what was added.
    """
    graph = model.graph
    builder = ModelBuilder(stored, _PREFIX)
    states = graph.output[0].name
    width = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    plain = not finish.added and finish.head is None
    if plain and finish.pooling != "last":
        add_embedding(builder, states, finish.pooling, normalize=finish.normalize)
        output = EMBEDDING
    else:
        vector = _pool(builder, states, finish.pooling)
        vector = add_dense_layers(builder, vector, "task_layers", finish.added, width)
        if finish.head is None:
            output = add_normalized(builder, vector, normalize=finish.normalize)
        else:
            bias = builder.has(f"{finish.head}.bias")
            scores = builder.linear(vector, finish.head, finish.classes, width, bias=bias)
            output, width = builder.node("Identity", scores, output=LOGITS), finish.classes
    graph.node.extend(builder.nodes)
    graph.initializer.extend(builder.constants)
    del graph.output[:]
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, [BATCH, width])
    graph.output.append(value)
    return builder.weights


def _pool(builder: ModelBuilder, states: str, pooling: str) -> str:
    """Return one vector of each text, [B, D], under a name that is no output."""
    if pooling == "last":
        return last_token(builder, states)
    add_embedding(builder, states, pooling, normalize=False)
    pooled = f"{_PREFIX}pooled"
    last = builder.nodes[-1]
    last.output[0] = last.name = pooled
    return pooled


def _fold_positions(graph: GraphProto) -> None:
    names = [value.name for value in graph.input]
    if _POSITIONS not in names or ATTENTION_MASK not in names:
        return
    one, zero, axis = (f"{_PREFIX}{_POSITIONS}_{what}" for what in ("one", "zero", "axis"))
    for name, number in ((one, 1), (zero, 0), (axis, 1)):
        tensor = helper.make_tensor(name, TensorProto.INT64, [], [number])
        graph.initializer.append(tensor)
    counted, before = f"{_PREFIX}counted", f"{_PREFIX}before"
    nodes = [
        helper.make_node("CumSum", [ATTENTION_MASK, axis], [counted], name=counted),
        helper.make_node("Sub", [counted, one], [before], name=before),
        helper.make_node("Max", [before, zero], [_POSITIONS], name=_POSITIONS),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    _keep(graph.input, [name for name in names if name != _POSITIONS])


def _keep(values: object, names: list[str]) -> None:
    """Keep the values with these names of a repeated field, in that order."""
    found = {value.name: value for value in values}  # type: ignore[attr-defined]
    kept = [found[name] for name in names if name in found]
    del values[:]  # type: ignore[attr-defined]
    values.extend(kept)  # type: ignore[attr-defined]


def _drop_identities(graph: GraphProto, weights: set[str]) -> None:
    """Use a weight itself where the tracer uses a copy of it."""
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        copy = node.op_type == "Identity" and node.input[0] in weights
        if copy and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _turn(graph: GraphProto, matrices: set[str]) -> dict[str, str]:
    """Take a matrix transposed where no node wants it as it is; return the new names."""
    uses = Counter(name for node in graph.node for name in node.input)
    turning: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if swaps_axes(node) and node.input[0] in matrices:
            turning.setdefault(node.input[0], []).append(node)
    turned = {name: f"{name}.T" for name, nodes in turning.items() if len(nodes) == uses[name]}
    same = {node.output[0]: turned[name] for name in turned for node in turning[name]}
    kept = [node for node in graph.node if not same.keys() & set(node.output)]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
    _replace_nodes(graph, kept)
    return turned


def _drop_unused(graph: GraphProto) -> None:
    wanted = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input) | _captured(node)
    _replace_nodes(graph, kept[::-1])


def _captured(node: NodeProto) -> set[str]:
    """Return every name that subgraphs of a node use; some are values outside of it."""
    graphs = [each.g for each in node.attribute if each.HasField("g")]
    inner = [each for graph in graphs for each in graph.node]
    names = {name for each in inner for name in each.input}
    names |= {value.name for graph in graphs for value in graph.output}
    return names.union(*(_captured(each) for each in inner)) if inner else names


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _rename_axes(value: ValueInfoProto) -> None:
    for dim in value.type.tensor_type.shape.dim:
        for old, new in _AXES:
            if dim.dim_param:
                dim.dim_param = re.sub(old, new, dim.dim_param)


def _strip(graph: GraphProto) -> None:
    graph.name = "model"
    graph.ClearField("doc_string")
    graph.ClearField("value_info")
    graph.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in (*graph.input, *graph.output):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
