"""The graph of the trainer's convolutional text classifiers.

Kim, "Convolutional neural networks for sentence classification", 2014. Every window that
touches a real token counts, and no other, so that a text's logits do not depend on how
far its batch is padded.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import ModelProto, TensorProto

from compiler.encoder.names import ATTENTION_MASK, INPUT_IDS, LOGITS
from compiler.errors import SourceError
from compiler.files import Settings
from compiler.onnx_export.added import add_dense_layers
from compiler.onnx_export.graph import BATCH, ModelBuilder
from compiler.onnx_export.lstm import size
from compiler.onnx_export.source import ModelFolder
from compiler.onnx_file import Weight

_MAX_KERNELS: Final = 64
_MAX_KERNEL: Final = 1024


def convolution_graph(source: ModelFolder, opset: int) -> tuple[ModelProto, list[Weight]]:
    """Return the model of a convolutional classifier, and the weights that it uses.

    Raises:
        SourceError: a configuration or weights that are not of such a network.
    """
    settings = Settings(source.path)
    kernels = _kernels(settings)
    filters = size(settings, "filters")
    added = settings.get("added_task_layers", int, 0)
    builder = ModelBuilder(source.weights)
    texts, real = _texts(builder, size(settings, "vocab_size"), size(settings, "embedding_size"))
    found = [
        _filters(builder, texts, real, index, (filters, size(settings, "embedding_size"), kernel))
        for index, kernel in enumerate(kernels)
    ]
    vector = builder.node("Concat", *found, axis=1)
    width = filters * len(kernels)
    vector = add_dense_layers(builder, vector, "added", added, width)
    scores = builder.linear(vector, "head", len(source.labels), width, bias=True)
    builder.node("Identity", scores, output=LOGITS)
    model = builder.text_model(LOGITS, [BATCH, len(source.labels)], opset)
    return model, list(builder.weights.values())


def _kernels(settings: Settings) -> tuple[int, ...]:
    values = settings.raw("kernel_sizes")
    if not isinstance(values, list) or not 1 <= len(values) <= _MAX_KERNELS:
        raise SourceError(f"{settings.path}: needs 'kernel_sizes' as a list of sizes")
    if not all(type(value) is int and 1 <= value <= _MAX_KERNEL for value in values):
        raise SourceError(f"{settings.path}: kernel_sizes must be from 1 to {_MAX_KERNEL}")
    return tuple(values)


def _texts(builder: ModelBuilder, vocabulary: int, width: int) -> tuple[str, str]:
    """Return real tokens' vectors [batch, width, sequence] and which are real [batch, 1, ...]."""
    table = builder.stored("extractor.embedding.weight", (vocabulary, width))
    vectors = builder.node("Gather", table, INPUT_IDS, axis=0)
    vectors = builder.node("Transpose", vectors, perm=[0, 2, 1])
    mask = builder.node("Cast", ATTENTION_MASK, to=TensorProto.FLOAT)
    real = builder.node("Unsqueeze", mask, builder.constant("channel_axis", np.array([1])))
    return builder.node("Mul", vectors, real), real


def _filters(
    builder: ModelBuilder, texts: str, real: str, index: int, shape: tuple[int, int, int]
) -> str:
    """Return the largest value of each filter over windows that touch a real token."""
    kernel = shape[2]
    pads = [kernel - 1, kernel - 1]
    name = f"extractor.convolutions.{index}"
    values = builder.node(
        "Conv",
        texts,
        builder.stored(f"{name}.weight", shape),
        builder.stored(f"{name}.bias", shape[:1]),
        kernel_shape=[kernel],
        pads=pads,
    )
    touched = builder.node("MaxPool", real, kernel_shape=[kernel], pads=pads)
    # Where no token is real, 0 is never above what ReLU gives elsewhere.
    kept = builder.node("Mul", builder.node("Relu", values), touched)
    return builder.node("Flatten", builder.node("GlobalMaxPool", kept), axis=1)
