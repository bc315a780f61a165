"""Read a BERT encoder: `config.json` and `model.safetensors`, checked against each other.

Refuses what the export does not compute exactly: other model types, relative
positions, unknown activations, decoders, weights that are no plain floating point numbers,
and missing or wrongly shaped tensors. Pickled weights are never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.errors import SourceError
from compiler.files import Settings
from compiler.weights.reading import Weights, open_weights

CONFIG_FILE = "config.json"
MAX_WEIGHTS_BYTES = (2 << 30) - 1

# The bounds only keep absurd files from absurd allocations.
_MAX_SIZE = 1 << 20
_MAX_LAYERS = 256
_MAX_LABELS = 4096
_PREFIX = "bert."


@dataclass(frozen=True, slots=True)
class BertConfig:
    """What the graph is built from; sizes in elements."""

    hidden: int
    inner: int
    layers: int
    heads: int
    positions: int
    vocabulary: int
    activation: str
    epsilon: float
    labels: tuple[str, ...]


EXACT_GELU = "gelu"
# The others are two names of the tanh approximation.
ACTIVATIONS = frozenset({EXACT_GELU, "gelu_new", "gelu_pytorch_tanh"})


def read_config(folder: Path) -> BertConfig:
    """Read `config.json` of a BERT model.

    Raises:
        SourceError: not a BERT encoder, or one whose computation is not supported.
    """
    settings = Settings(folder / CONFIG_FILE)
    if settings.get("model_type", str, "") != "bert":
        raise SourceError(
            f"{settings.path}: only model_type 'bert' can be exported here; export other "
            "models to ONNX (for instance with optimum) and give the folder with model.onnx"
        )
    if settings.get("position_embedding_type", str, "absolute") != "absolute":
        raise SourceError(f"{settings.path}: relative position embeddings are not supported")
    if settings.get("is_decoder", bool, False):
        raise SourceError(f"{settings.path}: this is a decoder, not an encoder")
    activation = settings.get("hidden_act", str)
    if activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise SourceError(f"{settings.path}: hidden_act must be one of {known}")
    config = BertConfig(
        hidden=_size(settings, "hidden_size"),
        inner=_size(settings, "intermediate_size"),
        layers=_size(settings, "num_hidden_layers", _MAX_LAYERS),
        heads=_size(settings, "num_attention_heads"),
        positions=_size(settings, "max_position_embeddings"),
        vocabulary=_size(settings, "vocab_size"),
        activation=activation,
        epsilon=settings.get("layer_norm_eps", float, 1e-12),
        labels=read_labels(settings),
    )
    if config.hidden % config.heads:
        raise SourceError(f"{settings.path}: hidden_size is not a multiple of the heads")
    return config


def read_labels(settings: Settings) -> tuple[str, ...]:
    """Return the labels of a sequence classifier in order; empty for other models."""
    architectures = settings.raw("architectures")
    names = architectures if isinstance(architectures, list) else []
    if not any(str(name).endswith("ForSequenceClassification") for name in names):
        return ()
    table = settings.raw("id2label")
    if not isinstance(table, dict) or not 1 <= len(table) <= _MAX_LABELS:
        raise SourceError(f"{settings.path}: a classifier needs 'id2label'")
    labels = [table.get(str(number)) for number in range(len(table))]
    texts = [label for label in labels if isinstance(label, str) and label]
    if len(texts) != len(table) or len(set(texts)) != len(texts):
        raise SourceError(f"{settings.path}: id2label must number distinct labels from 0")
    return tuple(texts)


def _size(settings: Settings, name: str, limit: int = _MAX_SIZE) -> int:
    value = settings.get(name, int)
    if not 1 <= value <= limit:
        raise SourceError(f"{settings.path}: {name} must be from 1 to {limit}")
    return value


@dataclass(frozen=True, slots=True)
class BertWeights:
    """The tensors of a BERT encoder by the names of `tensor_shapes`; read when asked for.

    Attributes:
        stored: the tensors of the folder.
        names: by our name, the name in the files.
    """

    stored: Weights
    names: Mapping[str, str]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return a tensor.

        Raises:
            SourceError: of another type than floating point, not finite, or unreadable.
        """
        return self.stored.tensor(self.names[name]).read()


def read_weights(folder: Path, config: BertConfig) -> BertWeights:
    """Find the tensors that the graph needs, and check their shapes.

    Raises:
        SourceError: missing, too large, no safetensors, or wrong names, shapes, types.
    """
    stored = open_weights(folder)
    if stored.size_bytes > MAX_WEIGHTS_BYTES:
        raise SourceError(f"{folder}: has weights of more than {MAX_WEIGHTS_BYTES} bytes")
    names: dict[str, str] = {}
    for name, shape in tensor_shapes(config).items():
        key = name if name in stored.tensors else _PREFIX + name
        stored.require(key, shape)
        names[name] = key
    return BertWeights(stored, names)


def tensor_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor that the graph of `config` needs."""
    width, inner = config.hidden, config.inner
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocabulary, width),
        "embeddings.position_embeddings.weight": (config.positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    linears = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    for layer in range(config.layers):
        block = f"encoder.layer.{layer}."
        for name, shape in linears.items():
            shapes[f"{block}{name}.weight"] = shape
            shapes[f"{block}{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{block}{name}.weight"] = (width,)
            shapes[f"{block}{name}.bias"] = (width,)
    if config.labels:
        shapes["pooler.dense.weight"] = (width, width)
        shapes["pooler.dense.bias"] = (width,)
        shapes["classifier.weight"] = (len(config.labels), width)
        shapes["classifier.bias"] = (len(config.labels),)
    return shapes
