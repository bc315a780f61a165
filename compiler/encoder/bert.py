"""Read a BERT encoder: `config.json` and `model.safetensors`, checked against each other.

Refuses what the export does not compute exactly: other model types, relative
positions, unknown activations, decoders, weights in a type other than F32 or F16, and
missing or wrongly shaped tensors. Pickled weights are never opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import SourceError
from compiler.files import Settings, pickle_hint

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MAX_WEIGHTS_BYTES = (2 << 30) - 1

# The bounds only keep absurd files from absurd allocations.
_MAX_SIZE = 1 << 20
_MAX_LAYERS = 256
_MAX_LABELS = 4096
_PREFIX = "bert."
_TYPES = ("F32", "F16")

Weights = dict[str, NDArray[np.float32]]


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


def read_weights(folder: Path, config: BertConfig) -> Weights:
    """Read the tensors that the graph needs, as float32, from `model.safetensors`.

    Raises:
        SourceError: missing, too large, no safetensors, or wrong names, shapes, types.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise SourceError(f"{folder}: has no {WEIGHTS_FILE}{pickle_hint(folder)}")
    if path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise SourceError(f"{path}: is larger than {MAX_WEIGHTS_BYTES} bytes")
    weights: Weights = {}
    try:
        with safe_open(path, framework="numpy") as file:
            present = set(file.keys())
            for name, shape in tensor_shapes(config).items():
                key = name if name in present else _PREFIX + name
                if key not in present:
                    raise SourceError(f"{path}: the tensor {name!r} is missing")
                weights[name] = _tensor(file, key, shape, path)
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path}: is not a valid safetensors file: {error}") from error
    return weights


def _tensor(file: Any, key: str, shape: tuple[int, ...], path: Path) -> NDArray[np.float32]:
    view = file.get_slice(key)
    if view.get_dtype() not in _TYPES:
        raise SourceError(f"{path}: {key!r} is {view.get_dtype()}; save the model as float32")
    if tuple(view.get_shape()) != shape:
        raise SourceError(f"{path}: {key!r} is {tuple(view.get_shape())}, config says {shape}")
    array = np.asarray(file.get_tensor(key), np.float32)
    if not np.isfinite(array).all():
        raise SourceError(f"{path}: {key!r} holds values that are not finite numbers")
    return array


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
