"""Prompts of an exact length in tokens, cut from real text."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp

_TEXT = Path("wikitext2") / "valid.txt"
# llama.cpp keeps the pointer and not the object, so this must live as long as it does.
_QUIET = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)


def shared_folder() -> Path:
    """Return the folder of development data.

    Raises:
        SystemExit: it is not there; the message says how to name it.
    """
    folder = Path(os.environ.get("CASEMATE_SHARED", "../shared"))
    if not folder.is_dir():
        raise SystemExit("the benchmark needs the development data: set CASEMATE_SHARED")
    return folder


def _vocabulary(gguf: Path) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), parameters)
    return model, llama_cpp.llama_model_get_vocab(model)


def prompts(gguf: Path, *, count: int, tokens: int, offset: int = 0) -> list[str]:
    """Cut `count` different prompts of about `tokens` tokens each from WikiText-2.

    The cut is made between tokens and turned back into text, so a prompt may come
    out a token longer or shorter when it is tokenized again.
    """
    llama_cpp.llama_log_set(_QUIET, ctypes.c_void_p(0))
    text = (shared_folder() / "data" / _TEXT).read_bytes()
    model, vocabulary = _vocabulary(gguf)
    wanted = (offset + count) * tokens
    text = text[: wanted * 8]
    buffer = (llama_cpp.llama_token * len(text))()
    total = llama_cpp.llama_tokenize(vocabulary, text, len(text), buffer, len(buffer), False, False)
    pieces = []
    scratch = ctypes.create_string_buffer(256)
    for index in range(min(total, wanted)):
        size = llama_cpp.llama_token_to_piece(
            vocabulary, buffer[index], scratch, len(scratch), 0, False
        )
        pieces.append(scratch.raw[:size])
    llama_cpp.llama_model_free(model)
    windows = [
        b"".join(pieces[first : first + tokens]).decode(errors="ignore").strip()
        for first in range(offset * tokens, wanted, tokens)
    ]
    if total < wanted:
        raise ValueError("the text is too short for so many prompts")
    return windows
