"""The graph of a BERT encoder, in standard ONNX operators.

Why no fused operators (com.microsoft Attention, SkipLayerNormalization ...): measured
on MiniLM with one thread, they were 4-16% slower on CPU at 16 and at 128 tokens than
the standard ones, from which ONNX Runtime makes its own BiasGelu and FusedMatMul when
it loads the graph. So the file also stays portable.

Token types are not an input: a text alone is always segment 0, so that row is added to
the position table here.

Paper: Devlin et al., BERT, 2018 (post-norm transformer, learned positions).
"""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, TensorProto

from compiler.encoder.bert import EXACT_GELU, BertConfig, BertWeights
from compiler.encoder.graph import GraphBuilder
from compiler.encoder.names import ATTENTION_MASK, EMBEDDING, INPUT_IDS, LOGITS
from compiler.encoder.pooling import add_embedding, first_token

# Added to the score of a padding token: exp() of it is 0 in float32.
_MASKED_SCORE = -10_000.0
# Hendrycks and Gimpel, Gaussian Error Linear Units, 2016: the tanh approximation.
_GELU_CUBIC = 0.044715


def embedding_graph(
    config: BertConfig, weights: BertWeights, pooling: str, *, normalize: bool
) -> ModelProto:
    """Return a graph from token ids to `embedding`, FP32 [batch, hidden]."""
    graph = _BertGraph(config, weights)
    add_embedding(graph.builder, graph.encoder(), pooling, normalize=normalize)
    return graph.builder.encoder_model(EMBEDDING, config.hidden)


def classifier_graph(config: BertConfig, weights: BertWeights) -> ModelProto:
    """Return a graph from token ids to `logits`, FP32 [batch, labels]."""
    graph = _BertGraph(config, weights)
    first = first_token(graph.builder, graph.encoder())
    pooled = graph.builder.node("Tanh", graph.linear(first, "pooler.dense"))
    graph.linear(pooled, "classifier", output=LOGITS)
    return graph.builder.encoder_model(LOGITS, len(config.labels))


class _BertGraph:
    """Adds the parts of one BERT; values are named by strings, as in the graph."""

    def __init__(self, config: BertConfig, weights: BertWeights) -> None:
        self.builder = GraphBuilder()
        self._config = config
        self._weights = weights

    def encoder(self) -> str:
        """Add everything up to the last hidden state, FP32 [batch, sequence, hidden]."""
        mask = self._mask()
        hidden = self._embeddings()
        for layer in range(self._config.layers):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden, mask)
        return hidden

    def linear(self, value: str, name: str, output: str | None = None) -> str:
        """Add `value` [batch, inputs] times the weights plus the bias of `name`."""
        weight, bias = self._constant(name + ".weight"), self._constant(name + ".bias")
        return self.builder.node("Gemm", value, weight, bias, transB=1, output=output)

    def _constant(self, name: str) -> str:
        return self.builder.constant(name, self._weights[name])

    def _scalar(self, name: str, value: float) -> str:
        return self.builder.constant(name, np.array(value, np.float32))

    def _mask(self) -> str:
        """Return what is added to attention scores, FP32 [batch, 1, 1, sequence]."""
        builder = self.builder
        kept = builder.node("Cast", ATTENTION_MASK, to=TensorProto.FLOAT)
        kept = builder.node("Unsqueeze", kept, builder.constant("axes", np.array([1, 2])))
        dropped = builder.node("Sub", self._scalar("kept", 1.0), kept)
        return builder.node("Mul", dropped, self._scalar("masked_score", _MASKED_SCORE))

    def _embeddings(self) -> str:
        builder, weights = self.builder, self._weights
        words = self._constant("embeddings.word_embeddings.weight")
        segment = weights["embeddings.token_type_embeddings.weight"][0]
        table = weights["embeddings.position_embeddings.weight"] + segment
        positions = builder.constant("position_embeddings", table)
        start = builder.constant("start", np.array([0]))
        axis = builder.constant("sequence_axis", np.array([1]))
        length = builder.node("Gather", builder.node("Shape", INPUT_IDS), axis, axis=0)
        rows = builder.node("Slice", positions, start, length, start)
        total = builder.node("Add", builder.node("Gather", words, INPUT_IDS, axis=0), rows)
        return self._norm(total, "embeddings.LayerNorm")

    def _layer(self, block: str, hidden: str, mask: str) -> str:
        attended = self._attention(block, hidden, mask)
        projected = self._project(attended, block + "attention.output.dense")
        total = self.builder.node("Add", projected, hidden)
        hidden = self._norm(total, block + "attention.output.LayerNorm")
        inner = self._activation(self._project(hidden, block + "intermediate.dense"), block)
        total = self.builder.node("Add", self._project(inner, block + "output.dense"), hidden)
        return self._norm(total, block + "output.LayerNorm")

    def _attention(self, block: str, hidden: str, mask: str) -> str:
        builder, config = self.builder, self._config
        size = config.hidden // config.heads
        split = builder.constant(block + "heads", np.array([0, 0, config.heads, size]))
        joined = builder.constant(block + "joined", np.array([0, 0, config.hidden]))
        query, key, value = (
            builder.node("Reshape", self._project(hidden, f"{block}attention.self.{name}"), split)
            for name in ("query", "key", "value")
        )
        query = builder.node("Transpose", query, perm=[0, 2, 1, 3])
        key = builder.node("Transpose", key, perm=[0, 2, 3, 1])
        value = builder.node("Transpose", value, perm=[0, 2, 1, 3])
        scores = builder.node("MatMul", query, key)
        scores = builder.node("Div", scores, self._scalar(block + "scale", math.sqrt(size)))
        weights = builder.node("Softmax", builder.node("Add", scores, mask), axis=-1)
        mixed = builder.node("MatMul", weights, value)
        mixed = builder.node("Transpose", mixed, perm=[0, 2, 1, 3])
        return builder.node("Reshape", mixed, joined)

    def _activation(self, value: str, block: str) -> str:
        """Return GELU: value / 2 * (1 + erf(value / sqrt 2)), or its tanh approximation."""
        builder = self.builder
        if self._config.activation == EXACT_GELU:
            root = self._scalar(block + "root_two", math.sqrt(2))
            curve = builder.node("Erf", builder.node("Div", value, root))
        else:
            cube = builder.node("Mul", builder.node("Mul", value, value), value)
            cube = builder.node("Mul", cube, self._scalar(block + "cubic", _GELU_CUBIC))
            slope = self._scalar(block + "slope", math.sqrt(2 / math.pi))
            inner = builder.node("Mul", builder.node("Add", value, cube), slope)
            curve = builder.node("Tanh", inner)
        curve = builder.node("Add", curve, self._scalar(block + "one", 1.0))
        product = builder.node("Mul", value, curve)
        return builder.node("Mul", product, self._scalar(block + "half", 0.5))

    def _project(self, value: str, name: str) -> str:
        """Multiply [batch, sequence, inputs] with weights and add the bias."""
        weight = self.builder.constant(name + ".weight", self._weights[name + ".weight"].T)
        product = self.builder.node("MatMul", value, weight)
        return self.builder.node("Add", product, self._constant(name + ".bias"))

    def _norm(self, value: str, name: str) -> str:
        scale, shift = self._constant(name + ".weight"), self._constant(name + ".bias")
        epsilon = self._config.epsilon
        return self.builder.node(
            "LayerNormalization", value, scale, shift, axis=-1, epsilon=epsilon
        )
