"""Plan the bundle of a text encoder: exported from weights, or from an ONNX file.

Reads the layouts of Hugging Face and sentence-transformers, and refuses what the
graph would not compute as the model's own library does: pooling other than mean or
first token, dense layers behind the pooling, prompts put before each text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.bundling.attesting import read_records
from compiler.bundling.inspect import inspect_onnx
from compiler.bundling.plan import Plan, Report
from compiler.encoder.bert import (
    CONFIG_FILE,
    BertConfig,
    read_config,
    read_labels,
    read_weights,
)
from compiler.encoder.names import HIDDEN_OUTPUTS, POOLED_OUTPUTS
from compiler.errors import SourceError
from compiler.files import MAX_TOKENIZER_BYTES, Settings, read_bytes, read_json
from compiler.tokenizer.file import open_tokenizer
from compiler.weights.files import WEIGHTS_FILE
from security.bundle.manifest import ONNXRUNTIME, Encoder
from security.preparse import OnnxSummary

if TYPE_CHECKING:
    from onnx import ModelProto

ONNX_FILES = ("model.onnx", "onnx/model.onnx")
TOKENIZER_FILE = "tokenizer.json"
_MODULES_FILE = "modules.json"
_MAX_DIM = 1 << 16
_NUMBERED_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
_OTHER_POOLINGS = (
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)


@dataclass(frozen=True, slots=True)
class TextLayout:
    """How a folder says that hidden states become a vector.

    Attributes:
        pooling: "mean" or "cls".
        normalize: whether vectors are L2-normalized.
        max_tokens: the longest text that it asks for, or None.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_tokens: int | None = None


def plan_bert(folder: Path) -> Plan:
    """Plan the export of a folder's BERT weights.

    Raises:
        SourceError: whatever of the folder is missing or not supported.
    """
    config = read_config(folder)
    layout = read_layout(folder)
    tokenizer = read_tokenizer(folder, config.vocabulary)
    weights = folder / WEIGHTS_FILE

    def write(target: Path, report: Report) -> None:
        report("exporting the encoder")
        _write(target, _bert_model(folder, config, layout))

    return Plan(
        task="classify" if config.labels else "embed",
        backend=ONNXRUNTIME,
        origin=folder,
        write_model=write,
        context_tokens=min(config.positions, layout.max_tokens or config.positions),
        tokenizer=tokenizer,
        encoder=_encoder(layout, config.labels, config.hidden),
        records=read_records(weights) if weights.is_file() else None,
    )


def _bert_model(folder: Path, config: BertConfig, layout: TextLayout) -> ModelProto:
    from compiler.encoder.bert_graph import classifier_graph, embedding_graph

    weights = read_weights(folder, config)
    if config.labels:
        return classifier_graph(config, weights)
    return embedding_graph(config, weights, layout.pooling, normalize=layout.normalize)


def _write(target: Path, model: ModelProto) -> None:
    from compiler.onnx_file import write_model

    write_model(target, model, sync=True)


def plan_onnx_encoder(folder: Path, model: Path, labels: tuple[str, ...] | None = None) -> Plan:
    """Plan the bundle of an encoder that is an ONNX file with a tokenizer beside it.

    Args:
        folder: where tokenizer.json and config.json lie.
        model: the ONNX file.
        labels: of a classifier in order, where config.json does not say it as a stock
            class does; None reads them there.

    Raises:
        SourceError: whatever is missing or not supported.
        UnsafeModelError: the pre-parser refused the model.
    """
    from compiler.encoder.adapt import adapt_encoder, check_interface

    summary = inspect_onnx(model)
    settings = Settings(folder / CONFIG_FILE)
    labels = read_labels(settings) if labels is None else labels
    layout = read_layout(folder)
    tokenizer = read_tokenizer(folder, settings.get("vocab_size", int, 0))
    hidden = 0 if labels else _vector_width(summary, settings)
    check_interface(summary, classify=bool(labels), origin=model)

    def write(target: Path, report: Report) -> None:
        report("writing the encoder")
        adapted = adapt_encoder(
            model,
            # It is read again, so it is looked at again.
            inspect_onnx(model),
            pooling=layout.pooling,
            normalize=layout.normalize,
            width=len(labels) or hidden,
            classify=bool(labels),
        )
        _write(target, adapted)

    return Plan(
        task="classify" if labels else "embed",
        backend=ONNXRUNTIME,
        origin=model,
        write_model=write,
        context_tokens=_context(settings, layout),
        tokenizer=tokenizer,
        encoder=_encoder(layout, labels, hidden),
    )


def _context(settings: Settings, layout: TextLayout) -> int:
    """Return the longest text in tokens that the positions have room for."""
    positions = settings.get("max_position_embeddings", int, 512)
    if settings.get("model_type", str, "") in _NUMBERED_FROM_PADDING:
        # Their first position is the one after the padding token's id.
        positions -= settings.get("pad_token_id", int, 1) + 1
    return max(1, min(positions, layout.max_tokens or positions))


def _vector_width(summary: OnnxSummary, settings: Settings) -> int:
    """Return the elements of a vector, as the graph declares or else as the config says."""
    shapes = {value.name: value.shape for value in summary.outputs}
    for name in (*POOLED_OUTPUTS, *HIDDEN_OUTPUTS):
        shape = shapes.get(name)
        if shape and isinstance(shape[-1], int):
            return shape[-1]
    return settings.get("dim" if "dim" in settings else "hidden_size", int)


def _encoder(layout: TextLayout, labels: tuple[str, ...], hidden: int) -> Encoder:
    if labels:
        return Encoder(pooling="cls", normalize=False, dim=len(labels), labels=labels)
    if not 1 <= hidden <= _MAX_DIM:
        raise SourceError(f"a vector of {hidden} elements is not supported")
    return Encoder(pooling=layout.pooling, normalize=layout.normalize, dim=hidden)


def read_layout(folder: Path) -> TextLayout:
    """Read modules.json and what it names; the default layout when there is none.

    Raises:
        SourceError: a module that the export does not compute.
    """
    path = folder / _MODULES_FILE
    if not os.path.lexists(path):
        return TextLayout()
    _refuse_default_prompt(folder)
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(item, dict) for item in modules):
        raise SourceError(f"{path}: is not a list of modules")
    kinds = [str(item.get("type", "")).rsplit(".", 1)[-1] for item in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise SourceError(
            f"{path}: supported are Transformer, Pooling and optionally Normalize, not "
            f"{', '.join(kinds)}"
        )
    return TextLayout(
        pooling=_pooling(folder, modules[1]),
        normalize=kinds[-1] == "Normalize",
        max_tokens=_max_tokens(folder),
    )


def _refuse_default_prompt(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    if os.path.lexists(path) and "default_prompt_name" in Settings(path):
        raise SourceError(f"{path}: a prompt put before every text is not supported")


def _pooling(folder: Path, module: dict[str, Any]) -> str:
    place = module.get("path")
    # A plain folder name: the path comes from the model and must not lead out of it.
    if not isinstance(place, str) or Path(place).name != place or place in ("", ".", ".."):
        raise SourceError(f"{folder / _MODULES_FILE}: the pooling module has no plain path")
    settings = Settings(folder / place / CONFIG_FILE, folder)
    modes = {
        "mean": settings.get("pooling_mode_mean_tokens", bool, False),
        "cls": settings.get("pooling_mode_cls_token", bool, False),
    }
    chosen = [name for name, active in modes.items() if active]
    others = [name for name in _OTHER_POOLINGS if settings.raw(name)]
    if len(chosen) != 1 or others:
        raise SourceError(f"{settings.path}: exactly one of mean and cls pooling is supported")
    return chosen[0]


def _max_tokens(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    if not os.path.lexists(path):
        return None
    settings = Settings(path)
    if "max_seq_length" not in settings:
        return None
    value = settings.get("max_seq_length", int)
    if value < 1:
        raise SourceError(f"{path}: max_seq_length must be at least 1")
    return value


def read_tokenizer(folder: Path, vocabulary: int) -> bytes:
    """Return tokenizer.json after reading it once as the worker will.

    Args:
        folder: where it lies.
        vocabulary: rows of the model's embedding, or 0 when that is not known.

    Raises:
        SourceError: missing, not readable, or larger than the model's vocabulary.
    """
    path = folder / TOKENIZER_FILE
    data = read_bytes(path, MAX_TOKENIZER_BYTES)
    open_tokenizer(path, vocabulary)
    return data
