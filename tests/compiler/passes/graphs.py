"""Small graphs for tests of passes, and the numbers that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compiler.bundling.encoders import read_layout
from compiler.encoder.bert import read_config, read_weights
from compiler.encoder.bert_graph import classifier_graph, embedding_graph
from compiler.onnx_measure.session import open_session, run_session
from tests.support.tiny_models import tiny_classifier_dir, tiny_encoder_dir

Array = NDArray[Any]


def model_of(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any],
    *,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    opset: int = 17,
) -> ModelProto:
    def values(shapes: Mapping[str, Any]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
            for name, shape in shapes.items()
        ]

    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "g", values(inputs), values(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    return run_session(open_session(model.SerializeToString(), optimize=False), feeds)


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def tiny_encoder(folder: Path, *, classify: bool = False) -> tuple[ModelProto, Path]:
    """The graph of a tiny BERT and the folder with its tokenizer."""
    made = tiny_classifier_dir(folder) if classify else tiny_encoder_dir(folder)
    config = read_config(made)
    weights = read_weights(made, config)
    if classify:
        return classifier_graph(config, weights), made
    layout = read_layout(made)
    return embedding_graph(config, weights, layout.pooling, normalize=True), made


def tiny_texts(count: int = 4, length: int = 9, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    ids = random.integers(5, 20, (count, length))
    mask = np.ones_like(ids)
    mask[-1, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}
