from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compiler.passes.fusion import Fusion
from compiler.passes.graph import replace_nodes
from compiler.passes.manager import default_passes, run_passes
from security.preparse.onnx_schema import MICROSOFT, MICROSOFT_OPERATORS
from tests.compiler.passes.graphs import model_of, operators, run, tiny_encoder, tiny_texts


def tidied(folder: Path) -> ModelProto:
    """A tiny BERT in the state that fusion needs."""
    model, _ = tiny_encoder(folder)
    return run_passes(model, default_passes())


def masked_as_exporters_do(model: ModelProto) -> ModelProto:
    """The mask's axes one by one and before its cast, where our own graph has both after it."""
    nodes = list(model.graph.node)
    cast = next(n for n in nodes if n.op_type == "Cast" and n.input[0] == "attention_mask")
    both = next(n for n in nodes if cast.output[0] in n.input)
    assert both.op_type == "Unsqueeze"
    written = [
        helper.make_node("Unsqueeze", ["attention_mask", "mask.heads"], ["mask.a"]),
        helper.make_node("Unsqueeze", ["mask.a", "mask.queries"], ["mask.b"]),
        helper.make_node("Cast", ["mask.b"], [both.output[0]], to=TensorProto.FLOAT),
    ]
    place = nodes.index(both)
    replace_nodes(model.graph, [*nodes[:place], *written, *nodes[place + 1 :]])
    for name, axis in (("mask.heads", 1), ("mask.queries", 2)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), name))
    return model


@pytest.mark.parametrize("attention", [False, True])
def test_what_is_recognised_becomes_one_operator_and_the_numbers_stay(
    tmp_path: Path, attention: bool
) -> None:
    model = masked_as_exporters_do(tidied(tmp_path / "m"))
    texts = tiny_texts()
    before = run(model, texts)
    fused = Fusion(attention=attention).run(model)
    made = {node.op_type for node in fused.graph.node if node.domain == MICROSOFT}
    assert {"SkipLayerNormalization", "BiasGelu"} <= made <= MICROSOFT_OPERATORS
    assert ("Attention" in made) is attention
    np.testing.assert_allclose(run(fused, texts)[0], before[0], atol=1e-5)


def test_only_domains_that_are_used_are_imported(tmp_path: Path) -> None:
    fused = Fusion().run(tidied(tmp_path / "m"))
    assert {item.domain for item in fused.opset_import} == {"", MICROSOFT}
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    plain = model_of(nodes, {}, inputs={"x": ["n"]}, outputs={"y": ["n"]})
    result = Fusion().run(plain)
    assert operators(result) == ["Neg"]
    assert {item.domain for item in result.opset_import} == {""}


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        Fusion().run(tidied(tmp_path / name)).SerializeToString(deterministic=True)
        for name in ("a", "b")
    )
    assert first == second
