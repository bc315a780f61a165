"""Which files of a model folder decide what becomes of it.

This is the one list: a source's digests are taken of these files and no others, a compilation
that is taken up again is known by them, an export copies or shows no others to a tool. What
is not on it is not read. It holds names alone, so that a training text that lies beside a model
stays out of statements, by its digest too.

Each listed file is a regular one of the folder, or of Hugging Face's cache that the folder is
part of (compiler/files.py); one that is not is refused here, whoever would have read it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from compiler.errors import SourceError
from compiler.files import open_regular, read_json
from compiler.weights.files import INDEX_FILE, weight_files

CONFIG_FILE: Final = "config.json"
MODULES_FILE: Final = "modules.json"
# What belongs to a model besides its weights; an export to ONNX takes these along.
BESIDE: Final = (
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    MODULES_FILE,
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
# Tokenizers in other forms, and inputs that are no texts: for a converter.
_FOR_CONVERTERS: Final = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tekken.json",
    "params.json",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_RECORDS: Final = ("training.json", "privacy.json")


def model_files(folder: Path) -> tuple[str, ...]:
    """Return the files of a folder of weights, names relative to it, sorted.

    Raises:
        SourceError: there are no weights, or a file is a link that leads out of the folder.
    """
    weights = [path.name for path in weight_files(folder)]
    further = (INDEX_FILE, *_FOR_CONVERTERS, *_RECORDS)
    return _own(folder, {*weights, *_present(folder, further), *files_beside(folder)})


def files_beside(folder: Path) -> tuple[str, ...]:
    """Return the files that belong to a model, but for its weights and records.

    Raises:
        SourceError: modules.json is no list, or a file is a link that leads out of the folder.
    """
    configs = [f"{name}/{CONFIG_FILE}" for name in module_folders(folder)]
    return _own(folder, {*_present(folder, BESIDE), *_present(folder, configs)})


def module_folders(folder: Path) -> list[str]:
    """Return the folders of modules that sentence-transformers names; plain names only.

    Raises:
        SourceError: modules.json is no list of modules.
    """
    path = folder / MODULES_FILE
    if not os.path.lexists(path):
        return []
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(item, dict) for item in modules):
        raise SourceError(f"{path}: is not a list of modules")
    places = [item.get("path") for item in modules]
    return [
        p for p in places if isinstance(p, str) and p not in ("", ".", "..") and Path(p).name == p
    ]


def _present(folder: Path, names: tuple[str, ...] | list[str]) -> list[str]:
    # A link that leads nowhere counts: opening it is refused by its name.
    return [name for name in names if os.path.lexists(folder / name)]


def _own(folder: Path, names: set[str]) -> tuple[str, ...]:
    for name in names:
        with open_regular(folder / name, folder):
            pass
    return tuple(sorted(names))
