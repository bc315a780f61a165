"""The graph of a BERT encoder, in operators that ONNX Runtime has fused kernels for.

Fused operators (com.microsoft Attention, SkipLayerNormalization, BiasGelu) are emitted
directly rather than left to the runtime's optimizer, whose pattern matching depends on
how a graph happens to be written; the same file then runs the same kernels in every
release. Token types are not an input: a text alone is always segment 0, so that row is
added to the position table here.

Paper: Devlin et al., BERT, 2018 (post-norm transformer, learned positions).
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from compiler.encoder.bert import ACTIVATIONS, BertConfig, Weights
from compiler.encoder.graph import (
    ATTENTION_MASK,
    EMBEDDING,
    INPUT_IDS,
    LOGITS,
    MICROSOFT,
    GraphBuilder,
)
from compiler.encoder.pooling import add_embedding, first_token


def embedding_graph(
    config: BertConfig, weights: Weights, pooling: str, *, normalize: bool
) -> ModelProto:
    """Return a graph from token ids to `embedding`, FP32 [batch, hidden]."""
    graph = _BertGraph(config, weights)
    add_embedding(graph.builder, graph.encoder(), pooling, normalize=normalize)
    return graph.builder.encoder_model(EMBEDDING, config.hidden)


def classifier_graph(config: BertConfig, weights: Weights) -> ModelProto:
    """Return a graph from token ids to `logits`, FP32 [batch, labels]."""
    graph = _BertGraph(config, weights)
    first = first_token(graph.builder, graph.encoder())
    pooled = graph.builder.node("Tanh", graph.linear(first, "pooler.dense"))
    graph.linear(pooled, "classifier", output=LOGITS)
    return graph.builder.encoder_model(LOGITS, len(config.labels))


class _BertGraph:
    """Adds the parts of one BERT; values are named by strings, as in the graph."""

    def __init__(self, config: BertConfig, weights: Weights) -> None:
        self.builder = GraphBuilder()
        self._config = config
        self._weights = weights

    def encoder(self) -> str:
        """Add everything up to the last hidden state, FP32 [batch, sequence, hidden]."""
        mask = self.builder.node("Cast", ATTENTION_MASK, to=TensorProto.INT32)
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

    def _transposed(self, name: str) -> str:
        return self.builder.constant(name, self._weights[name].T)

    def _embeddings(self) -> str:
        builder, weights = self.builder, self._weights
        words = self._constant("embeddings.word_embeddings.weight")
        segment = weights["embeddings.token_type_embeddings.weight"][0]
        table = weights["embeddings.position_embeddings.weight"] + segment
        positions = builder.constant("position_embeddings", table)
        start = builder.constant("start", np.array([0], np.int64))
        one = builder.constant("one", np.array([1], np.int64))
        length = builder.node("Gather", builder.node("Shape", INPUT_IDS), one, axis=0)
        rows = builder.node("Slice", positions, start, length, start)
        total = builder.node("Add", builder.node("Gather", words, INPUT_IDS, axis=0), rows)
        norm = self._norm("embeddings.LayerNorm")
        epsilon = self._config.epsilon
        return builder.node("LayerNormalization", total, *norm, axis=-1, epsilon=epsilon)

    def _layer(self, block: str, hidden: str, mask: str) -> str:
        builder, weights = self.builder, self._weights
        parts = [f"{block}attention.self.{name}" for name in ("query", "key", "value")]
        joined = np.concatenate([weights[part + ".weight"].T for part in parts], axis=1)
        bias = np.concatenate([weights[part + ".bias"] for part in parts])
        context = builder.node(
            "Attention",
            hidden,
            builder.constant(block + "qkv.weight", joined),
            builder.constant(block + "qkv.bias", bias),
            mask,
            domain=MICROSOFT,
            num_heads=self._config.heads,
        )
        hidden = self._add_and_norm(block + "attention.output", context, hidden)
        name = block + "intermediate.dense"
        inner = builder.node("MatMul", hidden, self._transposed(name + ".weight"))
        activation = ACTIVATIONS[self._config.activation]
        inner = builder.node(activation, inner, self._constant(name + ".bias"), domain=MICROSOFT)
        return self._add_and_norm(block + "output", inner, hidden)

    def _add_and_norm(self, block: str, value: str, residual: str) -> str:
        """Project, add bias and residual, normalize: three steps of BERT, one kernel."""
        projected = self.builder.node("MatMul", value, self._transposed(block + ".dense.weight"))
        scale, shift = self._norm(block + ".LayerNorm")
        return self.builder.node(
            "SkipLayerNormalization",
            projected,
            residual,
            scale,
            shift,
            self._constant(block + ".dense.bias"),
            domain=MICROSOFT,
            epsilon=self._config.epsilon,
        )

    def _norm(self, name: str) -> tuple[str, str]:
        return self._constant(name + ".weight"), self._constant(name + ".bias")
