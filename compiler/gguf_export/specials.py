"""Which tokens begin, end and fill a text, and what is put around one.

`tokenizer_config.json` says it by the tokens' texts, `config.json` by their numbers; where
both speak, the tokenizer's word counts, as in transformers. What is put around a text is
asked of the tokenizer itself.

It refuses a model without an end of text: llama.cpp would take token 11 or 2 for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.errors import SourceError
from compiler.files import Settings, read_text
from compiler.gguf_export.configuration import Configuration
from compiler.tokenizer.file import Frame, TokenizerFile

TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
GENERATION_FILE: Final = "generation_config.json"
TEMPLATE_FILE: Final = "chat_template.jinja"
_MOST_TOKENS: Final = 1 << 22
# Setting of transformers, without "_token", to the key of GGUF, without "_token_id".
_ROLES: Final = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding"}


@dataclass(frozen=True, slots=True)
class Specials:
    """The special tokens of a model.

    Attributes:
        ids: by the name that GGUF has for them, in a fixed order.
        add_bos: whether each text begins with `bos`.
        add_eos: whether each text ends with `eos`.
        chat_template: the source's own, or None.
    """

    ids: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def read_specials(folder: Path, tokenizer: TokenizerFile, config: Configuration) -> Specials:
    """Return the special tokens of the model in a folder.

    Raises:
        SourceError: there is no end of text, or what is put around a text is something
            else than `bos` and `eos`.
    """
    path = folder / TOKENIZER_CONFIG_FILE
    settings = Settings(path) if os.path.lexists(path) else None
    ids: dict[str, int] = {}
    texts = {role: _text(settings, role) for role in _ROLES}
    known = tokenizer.numbers([text for text in texts.values() if text is not None])
    for role, key in _ROLES.items():
        number = known.get(texts[role] or "")
        if number is None:
            number = _numbered(config, role)
        if number is not None:
            ids[key] = number
    further = [number for number in _ends(folder, config) if number != ids.get("eos")]
    if further and "eos" in ids:
        # A chat model's end of turn beside its end of text; GGUF has room for one more.
        ids["eot"] = further[0]
    if "eos" not in ids:
        raise SourceError(
            f"{path}: names no eos_token, and config.json no eos_token_id; llama.cpp would take "
            "some other token for the end of a text"
        )
    front, back = _around(tokenizer.frame, folder)
    if settings is not None and "add_bos_token" in settings and _rebuilds(settings):
        front = [ids["bos"]] if settings.get("add_bos_token", bool) and "bos" in ids else []
    if front not in ([], [ids.get("bos")]) or back not in ([], [ids["eos"]]):
        raise SourceError(
            f"{folder}: the tokenizer puts other tokens around a text than bos_token before it "
            "and eos_token behind it; a GGUF cannot say so"
        )
    return Specials(ids, bool(front), bool(back), _chat_template(folder, settings))


def _text(settings: Settings | None, role: str) -> str | None:
    value = settings.raw(f"{role}_token") if settings is not None else None
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _numbered(config: Configuration, role: str) -> int | None:
    name = f"{role}_token_id"
    value: Any = config.raw(name)
    first = value[0] if isinstance(value, list) and value else value
    return _token(first, config, config.path, name)


def _token(value: object, config: Configuration, path: Path, name: str) -> int | None:
    """Return a number of a token; None where there is none, which some write as -1."""
    if type(value) is not int or value < 0:
        return None
    rows = config.optional_count("vocab_size", _MOST_TOKENS) or _MOST_TOKENS
    if value >= rows:
        raise SourceError(f"{path}: {name} is beyond the model's {rows} tokens")
    return value


def _ends(folder: Path, config: Configuration) -> list[int]:
    """Return all the tokens at which the model's own configuration stops generating."""
    path = folder / GENERATION_FILE
    stated = Settings(path).raw("eos_token_id") if os.path.lexists(path) else None
    if stated is None:
        stated = config.raw("eos_token_id")
    numbers = stated if isinstance(stated, list) else [stated]
    found = [_token(number, config, path, "eos_token_id") for number in numbers]
    return [number for number in found if number is not None]


def _around(frame: Frame, folder: Path) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and behind a text."""
    bare, framed = list(frame.bare), list(frame.framed)
    for begin in range(len(framed) - len(bare) + 1):
        if framed[begin : begin + len(bare)] == bare:
            return framed[:begin], framed[begin + len(bare) :]
    raise SourceError(f"{folder}: the tokenizer changes a text when it frames it")


def _rebuilds(settings: Settings) -> bool:
    """Tell whether transformers' class for this tokenizer obeys `add_bos_token`."""
    name = settings.get("tokenizer_class", str, "")
    return name.removesuffix("Fast") in ("LlamaTokenizer", "GemmaTokenizer", "CodeLlamaTokenizer")


def _chat_template(folder: Path, settings: Settings | None) -> str | None:
    path = folder / TEMPLATE_FILE
    if os.path.lexists(path):
        return read_text(path)
    value = settings.raw("chat_template") if settings is not None else None
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict)]
        value = next((t.get("template") for t in named if t.get("name") == "default"), None)
    return value if isinstance(value, str) and value else None
