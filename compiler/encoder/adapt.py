"""Give an encoder graph that was exported elsewhere the one interface of this project.

Exports differ: some want `token_type_ids`, most stop at `last_hidden_state`, some pool
already. The graph's own computation is left alone; in front of it, token types become
constant zeros; behind it, pooling and normalization are appended where they are
missing. Names that it adds begin with a prefix that the graph may not use.
"""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, load_model

from compiler.encoder.graph import GraphBuilder
from compiler.encoder.names import (
    ATTENTION_MASK,
    EMBEDDING,
    HIDDEN_OUTPUTS,
    INPUT_IDS,
    LOGITS,
    POOLED_OUTPUTS,
)
from compiler.encoder.pooling import add_embedding, add_normalized
from compiler.errors import SourceError
from security.preparse import OnnxSummary

_PREFIX = "casemate_"
_SEGMENTS = "token_type_ids"


def check_interface(summary: OnnxSummary, *, classify: bool, origin: Path) -> None:
    """Check that a graph has the inputs and an output of a text encoder.

    Args:
        summary: what the pre-parser said of it.
        classify: whether the output is to be `logits`.
        origin: the file, for errors.

    Raises:
        SourceError: it has not.
    """
    _check_inputs(summary, origin)
    _output(summary, origin, classify=classify)


def adapt_encoder(
    path: Path,
    summary: OnnxSummary,
    *,
    pooling: str,
    normalize: bool,
    width: int,
    classify: bool,
) -> ModelProto:
    """Return the model in an ONNX file with inputs and output as `compiler.encoder` describes.

    Args:
        path: the file, which has passed the pre-parser.
        summary: what the pre-parser said of it.
        pooling: "mean" or "cls", for a graph that does not pool by itself.
        normalize: whether vectors are to have the L2 norm 1.
        width: elements of the output: the vector's, or the number of labels.
        classify: whether the output is `logits`.

    Raises:
        SourceError: inputs or outputs that are not those of a text encoder.
    """
    check_interface(summary, classify=classify, origin=path)
    output = _output(summary, path, classify=classify)
    model = load_model(path, load_external_data=False)
    if any(name.startswith(_PREFIX) for node in model.graph.node for name in node.output):
        raise SourceError(f"{path}: was adapted before; give the original export")
    builder = GraphBuilder(_PREFIX)
    if classify:
        target = LOGITS
    else:
        target = EMBEDDING
        pooled = output in POOLED_OUTPUTS
        if output == EMBEDDING:
            output = _rename(model, EMBEDDING, _PREFIX + EMBEDDING)
        if pooled:
            add_normalized(builder, output, normalize=normalize)
        else:
            add_embedding(builder, output, pooling, normalize=normalize)
    _drop_token_types(model)
    model.graph.node.extend(builder.nodes)
    model.graph.initializer.extend(builder.constants)
    _replace(model.graph.input, [_ids(INPUT_IDS), _ids(ATTENTION_MASK)])
    value = helper.make_tensor_value_info(target, TensorProto.FLOAT, ["batch", width])
    _replace(model.graph.output, [value])
    return model


def _check_inputs(summary: OnnxSummary, origin: Path) -> None:
    found = {value.name: value.dtype for value in summary.inputs}
    wanted = {INPUT_IDS, ATTENTION_MASK}
    if not wanted <= found.keys() <= wanted | {_SEGMENTS}:
        raise SourceError(
            f"{origin}: a text encoder has the inputs {INPUT_IDS} and {ATTENTION_MASK} (and "
            f"maybe {_SEGMENTS}), not {', '.join(sorted(found)) or 'none'}; for a graph of "
            "plain tensors use --task tensor"
        )
    if set(found.values()) != {"INT64"}:
        raise SourceError(f"{origin}: the inputs of a text encoder must be INT64")


def _output(summary: OnnxSummary, origin: Path, *, classify: bool) -> str:
    """Return the output that is used; what needs the least added behind it goes first."""
    names = [value.name for value in summary.outputs]
    wanted = (LOGITS,) if classify else (*POOLED_OUTPUTS, *HIDDEN_OUTPUTS)
    for name in wanted:
        if name in names:
            return name
    raise SourceError(f"{origin}: has none of the outputs {', '.join(wanted)}")


def _rename(model: ModelProto, old: str, new: str) -> str:
    """Rename a value that nodes of the main graph compute and use, and who is called like it."""
    for node in model.graph.node:
        # The nodes that are added take the free name; ONNX Runtime allows none twice.
        node.name = new if node.name == old else node.name
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    return new


def _drop_token_types(model: ModelProto) -> None:
    """Compute zeros where the graph asked for token types: a lone text is segment 0."""
    if all(value.name != _SEGMENTS for value in model.graph.input):
        return
    zeros = helper.make_node("Sub", [INPUT_IDS, INPUT_IDS], [_SEGMENTS], name=_PREFIX + _SEGMENTS)
    model.graph.node.insert(0, zeros)


def _ids(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])


def _replace(field: object, values: list[ValueInfoProto]) -> None:
    """Replace the content of a repeated field of a message."""
    del field[:]  # type: ignore[attr-defined]
    field.extend(values)  # type: ignore[attr-defined]
