"""Recognise what a path holds.

| given | kind |
| --- | --- |
| a `.gguf` file | gguf |
| a `.onnx` file | onnx |
| a folder with `bundle.json` | bundle |
| a folder with `config.json`, weights as safetensors, and `training.json` | checkpoint |
| a folder with `config.json` and weights as safetensors, or with an ONNX file | huggingface |

What it refuses, by name: what is none of these; pickled weights; files that are cut short; a
GGUF or ONNX file that the pre-parser does not let through (external data, unknown operator
domains, unknown architectures); a folder whose config.json names no architecture; a model of
text without its tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compiler.bundling.inspect import inspect_gguf, inspect_onnx
from compiler.errors import SourceError
from compiler.files import PICKLED, Settings
from compiler.source.heads import raw_scores, saved_as
from compiler.source.listing import CONFIG_FILE, files_beside, model_files
from compiler.source.source import (
    BUNDLE,
    CHECKPOINT,
    CLASSIFY,
    EMBED,
    GENERATE,
    GGUF,
    HUGGINGFACE,
    ONNX,
    TENSOR,
    Source,
)
from compiler.weights.reading import open_weights
from security.bundle.manifest import MANIFEST_NAME
from security.bundle.opening import open_unsigned
from security.errors import BundleError, UnsafeModelError

TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
RECORD_FILE: Final = "training.json"
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model")
GRAPH_FILES: Final = ("model.onnx", "onnx/model.onnx")
_CLASSIFIER: Final = "ForSequenceClassification"
_GENERATORS: Final = ("ForCausalLM", "LMHeadModel")
# What is served as an encoder: without a head, or with the one it was pretrained with.
_BERT_ENCODERS: Final = ("", "BertModel", "BertForMaskedLM", "BertForPreTraining")
_WANTED: Final = (
    "give a .gguf file, an .onnx file, a bundle, or a folder with config.json and "
    "model.safetensors or model.onnx"
)


def read_source(path: Path) -> Source:
    """Return what a path holds.

    Raises:
        SourceError: it is no source, or one that is not whole; names the file.
        UnsafeModelError: the pre-parser refused the model file.
        BundleError: a folder with a bundle.json breaks a rule of the format.
    """
    if path.is_dir():
        return _bundle(path) if (path / MANIFEST_NAME).is_file() else _folder(path)
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file or folder; {_WANTED}")
    if PICKLED.fullmatch(path.name):
        raise SourceError(
            f"{path}: pickled weights can run code when they are read and are never opened; "
            "convert them to safetensors, GGUF or ONNX"
        )
    match path.suffix.lower():
        case ".gguf":
            return _gguf(path)
        case ".onnx":
            return _onnx(path)
        case ".safetensors":
            raise SourceError(f"{path}: give the folder it lies in, with its config and tokenizer")
        case _:
            raise SourceError(f"{path}: is no model that is known here; {_WANTED}")


def require_unchanged(source: Source) -> None:
    """Check that a source is what it was when it was read: to be called when it was used.

    Raises:
        SourceError: a file of it has other content, is gone, or is new.
    """
    try:
        again = read_source(source.path)
        same = again == source and again.digests == source.digests
    except (SourceError, UnsafeModelError, BundleError):
        same = False
    if not same:
        raise SourceError(
            f"{source.path}: changed while it was compiled; start again when nothing writes to it"
        )


def _gguf(path: Path) -> Source:
    """A decoder; its chat template may lie beside it."""
    summary = inspect_gguf(path)
    beside = path.parent / TOKENIZER_CONFIG_FILE
    files = {path.name}
    if summary.chat_template is None and beside.is_file():
        files.add(beside.name)
    return Source(path, GGUF, summary.architecture, "", GENERATE, path, tuple(sorted(files)))


def _onnx(path: Path) -> Source:
    """A graph; one of text if config.json and a tokenizer lie beside it."""
    inspect_onnx(path)
    beside = [name for name in (CONFIG_FILE, TOKENIZER_FILES[0]) if (path.parent / name).is_file()]
    if len(beside) < 2:
        return Source(path, ONNX, "", "", TENSOR, path, (path.name,))
    settings = Settings(path.parent / CONFIG_FILE)
    architecture = saved_as(settings)
    task = CLASSIFY if architecture.endswith(_CLASSIFIER) else EMBED
    task = TENSOR if raw_scores(settings) else task
    files = tuple(sorted({path.name, *files_beside(path.parent)}))
    return Source(path, ONNX, settings.get("model_type", str, ""), architecture, task, path, files)


def _folder(folder: Path) -> Source:
    if not (folder / CONFIG_FILE).is_file():
        raise SourceError(f"{folder}: has no {CONFIG_FILE}; {_WANTED}")
    settings = Settings(folder / CONFIG_FILE)
    model_type, architecture = settings.get("model_type", str, ""), saved_as(settings)
    graph = next((folder / name for name in GRAPH_FILES if (folder / name).is_file()), None)
    if graph is not None and not (folder / "model.safetensors").is_file():
        inspect_onnx(graph)
        files = tuple(sorted({*files_beside(folder), graph.relative_to(folder).as_posix()}))
    else:
        graph = None
        open_weights(folder)
        files = model_files(folder)
    if not model_type:
        raise SourceError(f"{settings.path}: names no model_type; its architecture is unknown")
    task = TENSOR if raw_scores(settings) else _task_of(folder, model_type, architecture)
    if task not in (None, TENSOR) and not set(TOKENIZER_FILES) & set(files):
        raise SourceError(
            f"{folder}: has no {TOKENIZER_FILES[0]}; a model of text is served with the tokenizer "
            "that it was trained with"
        )
    kind = CHECKPOINT if RECORD_FILE in files else HUGGINGFACE
    return Source(folder, kind, model_type, architecture, task, graph, files)


def _task_of(folder: Path, model_type: str, architecture: str) -> str | None:
    """What a folder is for, as far as its files say; an export knows the rest."""
    if architecture.endswith(_CLASSIFIER):
        return CLASSIFY
    if architecture.endswith(_GENERATORS) and not model_type.startswith("casemate-"):
        return GENERATE
    if (folder / "modules.json").is_file():
        return EMBED
    return EMBED if model_type == "bert" and architecture in _BERT_ENCODERS else None


def _bundle(folder: Path) -> Source:
    """An existing bundle: its first variant, which is the fastest one."""
    with open_unsigned(folder) as opened:
        manifest = opened.manifest
        names = [MANIFEST_NAME, *(variant.file for variant in manifest.variants)]
        if manifest.tokenizer is not None:
            names.append(manifest.tokenizer.file)
    model = folder / manifest.variants[0].file
    return Source(folder, BUNDLE, "", "", manifest.task, model, tuple(sorted(names)))
