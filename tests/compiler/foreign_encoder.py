"""Small encoder graphs in the shapes that other exporters give them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.support.tiny_models import tiny_encoder_dir

DIM = 8


def foreign_model(
    vocabulary: int, output: str, *, segments: bool = True, opset: int = 14
) -> ModelProto:
    """A "model" whose hidden state is word embedding plus segment embedding.

    `output` is `last_hidden_state`, `sentence_embedding`, `embedding` (both the first
    token's state) or `logits` (its first three elements).
    """
    random = np.random.default_rng(7)
    words = random.standard_normal((vocabulary, DIM)).astype(np.float32)
    tables = [numpy_helper.from_array(words, "words")]
    tables.append(numpy_helper.from_array(np.ones((2, DIM), np.float32), "kinds"))
    tables.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
    tables.append(numpy_helper.from_array(np.arange(3), "three"))
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]
    hidden = output if output == "last_hidden_state" else "hidden"
    nodes = [helper.make_node("Gather", ["words", "input_ids"], ["w" if segments else hidden])]
    if segments:
        nodes.append(helper.make_node("Gather", ["kinds", "token_type_ids"], ["k"]))
        nodes.append(helper.make_node("Add", ["w", "k"], [hidden]))
    if output != "last_hidden_state":
        first = "first" if output == "logits" else output
        nodes.append(helper.make_node("Gather", [hidden, "zero"], [first], axis=1))
    if output == "logits":
        nodes.append(helper.make_node("Gather", ["first", "three"], [output], axis=1))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in names]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, initializer=tables)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def foreign_dir(path: Path, output: str, place: str = "model.onnx", **options: bool) -> Path:
    """A Hugging Face folder with an ONNX file at `place` and no weights."""
    folder = tiny_encoder_dir(path)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text()) | {"hidden_size": DIM}
    if output == "logits":
        config |= {"architectures": ["XForSequenceClassification"]}
        config["id2label"] = {"0": "a", "1": "b", "2": "c"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / place).parent.mkdir(exist_ok=True)
    model = foreign_model(config["vocab_size"], output, **options)
    (folder / place).write_bytes(model.SerializeToString())
    return folder
