"""Files of a tokenizer in the layout of Hugging Face: reading, guessing, writing.

    tokenizer.json            the tokenizer itself; all that encoding needs
    tokenizer_config.json     settings: which token is which, model_max_length
    special_tokens_map.json   which token is which, for older readers

A directory without tokenizer.json (an older one with vocab.txt or the like) is
converted by transformers, from local files alone. `auto_map`, which names code to
run, is dropped on reading and so is never passed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from trainer.data.special import SpecialTokens
from trainer.errors import DataError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"

# What a bare tokenizer.json calls its special tokens, by how transformers calls them.
_WELL_KNOWN = {
    "pad_token": ("[PAD]", "<pad>", "<|pad|>"),
    "unk_token": ("[UNK]", "<unk>", "<|unk|>"),
    "bos_token": ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"),
    "eos_token": ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "mask_token": ("[MASK]", "<mask>"),
}
_SENTINEL = "<extra_id_{}>"
# Far above any vocabulary; an id decides how large a table is made.
_MOST_IDS = 1 << 22
# What transformers writes where a model has no limit.
_NO_LIMIT = int(1e30)


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json, or the one in a directory.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        if path.is_dir():
            return _convert(path)
        raise DataError(f"{path}: there is no tokenizer here; give a tokenizer.json")
    try:
        read = tokenizers.Tokenizer.from_file(str(file))
        # What is wrong with patterns and templates shows at the first text.
        read.encode("a b", "c")
        size_of(read)
    except (KeyboardInterrupt, SystemExit):
        raise
    # The library raises nothing narrower; a Rust panic is no Exception.
    except BaseException as error:
        raise DataError(f"{file}: this is no tokenizer: {_first_line(error)}") from None
    return read


def size_of(backend: tokenizers.Tokenizer) -> int:
    """Return the number of ids, special tokens included: one above the largest.

    Raises:
        DataError: there is no token, or an id beyond any vocabulary.
    """
    ids = backend.get_vocab(with_added_tokens=True).values()
    if not ids or max(ids) >= _MOST_IDS:
        raise DataError(f"a vocabulary has 1 to {_MOST_IDS:,} tokens, with ids below that")
    return int(max(ids)) + 1


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _convert(folder: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, use_fast=True, trust_remote_code=False
        )
        backend = fast.backend_tokenizer
    except Exception as error:  # whatever an old directory lacks
        raise DataError(
            f"{folder}: there is no tokenizer.json, and transformers could not make one "
            f"from the other files: {error}"
        ) from error
    return backend


def read_settings(folder: Path, backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return what tokenizer_config.json and special_tokens_map.json say.

    Without either, the special tokens are told by their well-known names.

    Raises:
        DataError: a file is there and is not a JSON object.
    """
    settings = _read_object(folder / MAP_FILE) | _read_object(folder / CONFIG_FILE)
    settings.pop("auto_map", None)
    if not any(name in settings for name in _WELL_KNOWN):
        settings |= _guess(backend)
    return settings


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: this is no JSON object")
    return content


def _guess(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, candidates in _WELL_KNOWN.items():
        present = [token for token in candidates if backend.token_to_id(token) is not None]
        if present:
            found[name] = present[0]
    return found


def _token(settings: Mapping[str, Any], name: str) -> str | None:
    """Return a special token, which some files write as an object with its flags."""
    value = settings.get(name)
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def special_tokens(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> SpecialTokens:
    """Return the ids of the special tokens that settings name and the vocabulary has."""

    def find(*names: str) -> int | None:
        for name in names:
            token = _token(settings, name)
            if token is not None and (found := backend.token_to_id(token)) is not None:
                return int(found)
        return None

    sentinels: list[int] = []
    while (found := backend.token_to_id(_SENTINEL.format(len(sentinels)))) is not None:
        sentinels.append(found)
    return SpecialTokens(
        pad=find("pad_token"),
        unknown=find("unk_token"),
        begin=find("cls_token", "bos_token"),
        end=find("sep_token", "eos_token"),
        mask=find("mask_token"),
        separator=find("sep_token"),
        sentinels=tuple(sentinels),
    )


def new_settings(names: Mapping[str, str], additional: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of a tokenizer that was trained here."""
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Otherwise transformers rewrites " ." to "." and the like when decoding.
        "clean_up_tokenization_spaces": False,
        **names,
    }
    if additional:
        settings["additional_special_tokens"] = list(additional)
    return settings


def write_settings(folder: Path, settings: Mapping[str, Any], context: int | None) -> None:
    """Write tokenizer_config.json and special_tokens_map.json.

    Args:
        folder: where.
        settings: what to write.
        context: tokens that the model can take; None keeps what settings say.
    """
    config = {"model_max_length": _NO_LIMIT, **settings}
    if context is not None:
        config["model_max_length"] = context
    names = (*_WELL_KNOWN, "additional_special_tokens")
    tokens = {name: settings[name] for name in names if settings.get(name)}
    for file, content in ((CONFIG_FILE, config), (MAP_FILE, tokens)):
        text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        (folder / file).write_text(text, encoding="utf-8")
