"""BERT's forward pass in numpy, written from the paper and not from the exporter."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float64]
_erf = np.vectorize(math.erf)


class ReferenceBert:
    """A folder's weights, computed in float64.

    Args:
        folder: holds model.safetensors.
        heads: attention heads.
        tanh_gelu: whether GELU is the tanh approximation.
    """

    def __init__(self, folder: Path, heads: int, *, tanh_gelu: bool = False) -> None:
        tensors = load_file(folder / "model.safetensors")
        self._weights = {
            name.removeprefix("bert."): array.astype(np.float64)
            for name, array in tensors.items()
            if array.dtype.kind == "f"
        }
        self._heads = heads
        self._tanh_gelu = tanh_gelu
        self._layers = 1 + max(
            int(name.split(".")[2]) for name in self._weights if name.startswith("encoder.layer.")
        )

    def hidden(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Array:
        """Return the last hidden state, [batch, sequence, hidden]."""
        tables = {n: self._weights[f"embeddings.{n}_embeddings.weight"] for n in _TABLES}
        state = tables["word"][ids] + tables["token_type"][0]
        state = self._norm(state + tables["position"][: ids.shape[1]], "embeddings.LayerNorm")
        for layer in range(self._layers):
            block = f"encoder.layer.{layer}."
            attended = self._attention(state, mask, block)
            attended = self._linear(attended, block + "attention.output.dense")
            state = self._norm(state + attended, block + "attention.output.LayerNorm")
            inner = self._linear(state, block + "intermediate.dense")
            inner = inner * 0.5 * (1 + self._curve(inner))
            state = self._norm(
                state + self._linear(inner, block + "output.dense"), block + "output.LayerNorm"
            )
        return state

    def embedding(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], pooling: str, normalize: bool
    ) -> Array:
        """Return one vector a text, [batch, hidden]."""
        state = self.hidden(ids, mask)
        pooled = state[:, 0]
        if pooling == "mean":
            kept = mask[:, :, None].astype(np.float64)
            pooled = (state * kept).sum(1) / kept.sum(1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True) if normalize else pooled

    def logits(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Array:
        """Return a classifier's logits, [batch, labels]."""
        first = self.hidden(ids, mask)[:, 0]
        return self._linear(np.tanh(self._linear(first, "pooler.dense")), "classifier")

    def _curve(self, value: Array) -> Array:
        if self._tanh_gelu:
            inner: Array = np.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3))
            return inner
        exact: Array = _erf(value / math.sqrt(2))
        return exact

    def _linear(self, value: Array, name: str) -> Array:
        result: Array = value @ self._weights[name + ".weight"].T + self._weights[name + ".bias"]
        return result

    def _norm(self, value: Array, name: str) -> Array:
        centred = value - value.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        result: Array = scaled * self._weights[name + ".weight"] + self._weights[name + ".bias"]
        return result

    def _attention(self, state: Array, mask: NDArray[np.int64], block: str) -> Array:
        batch, length, width = state.shape
        size = width // self._heads
        query, key, value = (
            self._linear(state, f"{block}attention.self.{name}")
            .reshape(batch, length, self._heads, size)
            .transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(size)
        scores = np.where(mask[:, None, None, :] == 1, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed: Array = (weights @ value).transpose(0, 2, 1, 3).reshape(batch, length, width)
        return mixed


_TABLES = ("word", "position", "token_type")
