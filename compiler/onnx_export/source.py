"""What a directory of weights is, checked before anything is made of it.

Refused by name: a missing config.json or weights, pickled weights, quantized ones, code
that the directory brings along for its own architecture, families of the trainer that
this version does not know, heads that no task here stands for, counts that the weights
beside them cannot stand for, and files of a checkpoint that its record describes
otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.bundling.attesting import RECORD_NAME
from compiler.errors import SourceError
from compiler.files import Settings, digest_of, read_bytes, read_json
from compiler.weights.reading import Weights, open_weights
from security.checkpoint.layout import MAX_RECORD_BYTES, check_record
from security.errors import BundleError

CONFIG_FILE: Final = "config.json"
TRANSFORMER: Final = "casemate-transformer"
RECURRENT: Final = "casemate-recurrent"
CONVOLUTION: Final = "casemate-convolution"
WORD_EMBEDDINGS: Final = "casemate-word-embeddings"
OWN_TYPES: Final = (TRANSFORMER, RECURRENT, CONVOLUTION, WORD_EMBEDDINGS)
_OWN_PREFIX: Final = "casemate-"
_OWN_FORMAT: Final = 1
# What the name of a stored class says about its task.
_TASKS: Final = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "MTModel": "text2text-generation",
    "Model": "feature-extraction",
}
# Such a class gives two kinds of answers, of which a name that ends in "Model" tells nothing.
_TWO_HEADS: Final = "DoubleHeads"
LABELLED: Final = ("text-classification", "token-classification")
_MAX_LABELS: Final = 4096
_MAX_CONFIG_DEPTH: Final = 8
_LEAST_MODULES: Final = 512
_MODULES: Final = ("layer", "expert", "block", "stage")
_WIDTHS: Final = ("size", "width", "dim", "capacity")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A directory that holds a model.

    Attributes:
        folder: the directory.
        config: config.json as it stands.
        model_type: what it says.
        stock: the configuration of a class of transformers; None for the networks that
            are built here.
        task: in optimum's words, of the class that wrote the directory.
        labels: classes in order.
        weights: where the tensors lie.
        digests: SHA-256 of each weights file, by name.
    """

    folder: Path
    config: Mapping[str, Any]
    model_type: str
    stock: Mapping[str, Any] | None
    task: str
    labels: tuple[str, ...]
    weights: Weights
    digests: Mapping[str, str]

    @property
    def path(self) -> Path:
        """config.json, for messages."""
        return self.folder / CONFIG_FILE

    def require_unchanged(self) -> None:
        """Check that the weights are still those that were looked at.

        Raises:
            SourceError: they are not.
        """
        for file in self.weights.files:
            if digest_of(file.path) != self.digests[file.path.name]:
                raise SourceError(f"{file.path}: changed while it was exported; start again")


def read_folder(folder: Path) -> ModelFolder:
    """Look at a directory.

    Raises:
        SourceError: as the module says.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: is no folder; a model is exported from a folder of weights")
    if not (folder / CONFIG_FILE).is_file():
        raise SourceError(f"{folder}: has no {CONFIG_FILE}: it is no model folder")
    settings = Settings(folder / CONFIG_FILE)
    config = read_json(folder / CONFIG_FILE)
    model_type = settings.get("model_type", str, "")
    if not model_type:
        raise SourceError(f"{settings.path}: does not say its model_type")
    weights = open_weights(folder)
    stock = _stock(settings, config, model_type)
    _require_counts(settings.path, stock or config, weights)
    digests = weights.digests()
    _check_record(folder, digests)
    task = _task(settings.path, config, stock)
    return ModelFolder(
        folder=folder,
        config=config,
        model_type=model_type,
        stock=stock,
        task=task,
        labels=_labels(settings.path, config) if task in LABELLED else (),
        weights=weights,
        digests=digests,
    )


def _stock(
    settings: Settings, config: Mapping[str, Any], model_type: str
) -> Mapping[str, Any] | None:
    """Return the configuration that a class of transformers is made from, or None."""
    if not model_type.startswith(_OWN_PREFIX):
        stock = config
    else:
        if model_type not in OWN_TYPES:
            raise SourceError(
                f"{settings.path}: the model_type {model_type[:100]!a} is not known here; known "
                f"are {', '.join(OWN_TYPES)} and the architectures of transformers"
            )
        if model_type != WORD_EMBEDDINGS and config.get("format") != _OWN_FORMAT:
            raise SourceError(
                f"{settings.path}: has another format of {model_type} than {_OWN_FORMAT}; it "
                "was written by a later version"
            )
        if model_type != TRANSFORMER:
            return None
        base = config.get("base")
        if not isinstance(base, dict):
            raise SourceError(f"{settings.path}: needs 'base' as an object")
        stock = base
    if stock.get("quantization_config"):
        raise SourceError(
            f"{settings.path}: the weights are quantized; give the float weights that they were "
            "made from"
        )
    if "auto_map" in stock:
        raise SourceError(
            f"{settings.path}: the architecture is code of the directory (auto_map), which is "
            "never run; only architectures that transformers itself has can be exported"
        )
    return stock


def _task(path: Path, config: Mapping[str, Any], stock: Mapping[str, Any] | None) -> str:
    if stock is None:
        own = config["model_type"]
        if own == WORD_EMBEDDINGS:
            return "word-embedding"
        classes = own == CONVOLUTION or config.get("pooling") != "none"
        return "text-classification" if classes else "text-generation"
    if config["model_type"] == TRANSFORMER:
        task = _own_task(path, config)
        if task is not None:
            return task
    names = stock.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else "Model"
    for ending, task in _TASKS.items():
        if name.endswith(ending) and _TWO_HEADS not in name:
            return task
    known = ", ".join(f"{ending} ({task})" for ending, task in _TASKS.items())
    raise SourceError(
        f"{path}: a {name[:100]!a} cannot be exported: nothing here serves what its output layer "
        f"gives; classes whose names end in one of these can be: {known}"
    )


def _own_task(path: Path, config: Mapping[str, Any]) -> str | None:
    """Return the task of a network of the trainer that pools by itself, else None."""
    pooling, task = config.get("pooling"), config.get("task")
    if pooling in ("none", "stock"):
        return None
    if pooling not in ("first", "mean") or task not in ("classification", "embedding"):
        raise SourceError(f"{path}: task {task!a} with pooling {pooling!a} is not known here")
    return "text-classification" if task == "classification" else "sentence-similarity"


def _labels(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    table = config.get("id2label")
    if table is None:
        # What transformers makes of a configuration that names none.
        count = 2 if config.get("num_labels") is None else config["num_labels"]
        if type(count) is not int:
            raise SourceError(f"{path}: needs 'num_labels' as an int")
        table = {str(index): f"LABEL_{index}" for index in range(min(count, _MAX_LABELS))}
    if not isinstance(table, dict) or not 1 <= len(table) <= _MAX_LABELS:
        raise SourceError(f"{path}: a classifier needs 'id2label' with 1 to {_MAX_LABELS} labels")
    labels = [table.get(str(index)) for index in range(len(table))]
    texts = tuple(label for label in labels if isinstance(label, str))
    if len(texts) != len(table):
        raise SourceError(f"{path}: id2label must number labels from 0")
    return texts


def _check_record(folder: Path, digests: Mapping[str, str]) -> None:
    """Compare the files of a trainer's checkpoint with what its record says of them."""
    path = folder / RECORD_NAME
    if not path.is_file():
        return
    data = read_bytes(path, MAX_RECORD_BYTES)
    record = read_json(path, MAX_RECORD_BYTES)
    files = record.get("files") if isinstance(record, dict) else None
    named = sorted(map(str, files)) if isinstance(files, dict) else []
    found = dict(digests)
    for name in named:
        plain = Path(name)
        inside = not plain.is_absolute() and ".." not in plain.parts
        if name not in found and inside and (folder / plain).is_file():
            found[name] = digest_of(folder / plain, folder)
    try:
        check_record(data, found)
    except BundleError as error:
        raise SourceError(f"{path}: {error}") from error


def _require_counts(path: Path, config: Mapping[str, Any], weights: Weights) -> None:
    """Refuse counts of modules that would keep a machine busy and no weights stand for."""
    limit = max(_LEAST_MODULES, len(weights.tensors))
    for key, value in _numbers(path, config, _MAX_CONFIG_DEPTH):
        counts = any(word in key for word in _MODULES) and not any(w in key for w in _WIDTHS)
        if counts and not key.endswith("_id") and abs(value) > limit:
            raise SourceError(
                f"{path}: has {key[:100]} {value}, and the weights beside it allow at most "
                f"{limit}; the files are not of one model"
            )


def _numbers(path: Path, values: Mapping[str, Any], depth: int) -> Iterator[tuple[str, int]]:
    if depth == 0:
        raise SourceError(f"{path}: is nested too deeply")
    for key, value in values.items():
        if key in ("id2label", "label2id"):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from _numbers(path, each, depth - 1)
            elif isinstance(each, int) and not isinstance(each, bool):
                yield key, each
