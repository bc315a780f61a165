"""The graph of word embeddings: a table, looked up.

Padding gets zeros. The output is one vector a token, as an encoder's states are, so that
whatever pools states of an encoder makes a vector of a text of them.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from compiler.encoder.names import ATTENTION_MASK, HIDDEN_OUTPUTS, INPUT_IDS
from compiler.files import Settings
from compiler.onnx_export.graph import BATCH, SEQUENCE, ModelBuilder
from compiler.onnx_export.lstm import size
from compiler.onnx_export.source import ModelFolder
from compiler.onnx_file import Weight


def embeddings_graph(source: ModelFolder, opset: int) -> tuple[ModelProto, list[Weight]]:
    """Return the model of word embeddings, and the table that it uses.

    Raises:
        SourceError: a configuration or weights that are no word embeddings.
    """
    settings = Settings(source.path)
    width = size(settings, "width")
    builder = ModelBuilder(source.weights)
    table = builder.stored("input_embeddings", (size(settings, "vocabulary_size"), width))
    vectors = builder.node("Gather", table, INPUT_IDS, axis=0)
    mask = builder.node("Cast", ATTENTION_MASK, to=TensorProto.FLOAT)
    real = builder.node("Unsqueeze", mask, builder.constant("width_axis", np.array([2])))
    output = builder.node("Mul", vectors, real, output=HIDDEN_OUTPUTS[0])
    model = builder.text_model(output, [BATCH, SEQUENCE, width], opset)
    return model, list(builder.weights.values())
