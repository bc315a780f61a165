"""GELU, LayerNorm and attention as single operators, by onnxruntime's own optimizer.

The optimizer is the one that ships with the runtime (onnxruntime.transformers), told what
it may do: no embedding layer (its mask format takes padding to be at the end), masks as
they are. It runs in a process of its own, since importing it puts a folder of modules with
common names on the path. Which fused operators may leave here is the pre-parser's list; a
graph that would hold another one is given back as it was.

Whether fusion pays is for measurement to say: on MiniLM in float32 the fused attention was
4-16% slower on CPU than the operators it replaces, from which the runtime makes its own
fusions when it loads a graph. So nothing is fused by default. The graphs of compiler.encoder
write their mask in a way that is not recognised: their attention stays as it is either way.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, helper

from compiler.child.job import run_child
from compiler.passes.base import CONSTANTS_NAMED, FOLDED, FUSED, NO_TRAINING, UNIQUE_EXPRESSIONS
from compiler.progress import Progress
from security.preparse.onnx_schema import MICROSOFT, MICROSOFT_OPERATORS


class Fusion:
    """Fuse what onnxruntime recognises in a transformer encoder.

    Args:
        attention: whether attention becomes one operator too.
    """

    name = "fusion"
    needs = frozenset({CONSTANTS_NAMED, FOLDED, NO_TRAINING, UNIQUE_EXPRESSIONS})
    ensures = frozenset({FUSED})

    def __init__(self, *, attention: bool = True) -> None:
        self._attention = attention

    def run(self, model: ModelProto) -> ModelProto:
        """Return the fused model, or the one given where an operator would not be allowed.

        Raises:
            ChildError: the optimizer failed.
        """
        with tempfile.TemporaryDirectory(prefix="casemate-fusion-") as name:
            folder = Path(name)
            source, target = folder / "model.onnx", folder / "fused.onnx"
            onnx.save(model, source)
            request = {"model": str(source), "to": str(target), "attention": self._attention}
            run_child(__name__, request, of=source)
            fused = onnx.load(target)
        domains = {(node.domain, node.op_type) for node in fused.graph.node}
        if any(d == MICROSOFT and op not in MICROSOFT_OPERATORS for d, op in domains):
            return model
        fused.producer_name, fused.producer_version = model.producer_name, model.producer_version
        _name_in_order(fused)
        return fused


def _name_in_order(model: ModelProto) -> None:
    """Import the domains that are used, and no other; number nodes by their place."""
    used = {node.domain for node in model.graph.node}
    kept = [item for item in model.opset_import if item.domain in ("", "ai.onnx")]
    if MICROSOFT in used:
        kept.append(helper.make_opsetid(MICROSOFT, 1))
    del model.opset_import[:]
    model.opset_import.extend(kept)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Fuse, in the child."""
    del progress
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_by_fusion

    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False
    options.enable_shape_inference = False
    options.enable_attention = request["attention"]
    options.use_raw_attention_mask()
    model = onnx.load(request["model"])
    result = optimize_by_fusion(model, "bert", 0, 0, options)
    result.topological_sort()
    onnx.save(result.model, request["to"])
    return {}
