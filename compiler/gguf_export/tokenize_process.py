"""Tokenize texts with llama.cpp, in a process of its own.

llama.cpp may abort on a vocabulary that it did not expect; then this process ends, and not
the compiler. It loads the vocabulary alone, no weights.

The request: {"gguf": path, "plain": [text...], "parsed": [text...]}. The reply:
{"plain": [[id...]...], "parsed": [...], "framed": [id...], "control": [id...],
"end": [id...]}: tokens with control tokens taken for letters, the same with their
spelling obeyed, the tokens of "a" with what is put around a text, which tokens are
controls, and which end a text.
"""

from __future__ import annotations

import ctypes
from typing import Any

from compiler.errors import SourceError
from compiler.progress import Progress


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Tokenize, in the child.

    Raises:
        SourceError: llama.cpp does not take the file.
    """
    del progress
    from llama_cpp import llama_cpp as c_api

    @c_api.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def silent(_level: int, _text: bytes, _data: Any) -> None:
        """Drop what llama.cpp has to say: it can quote the vocabulary."""

    c_api.llama_log_set(silent, ctypes.c_void_p(0))
    c_api.llama_backend_init()
    options = c_api.llama_model_default_params()
    options.vocab_only = True
    model = c_api.llama_model_load_from_file(request["gguf"].encode(), options)
    if not model:
        raise SourceError("it cannot be loaded")
    vocabulary = c_api.llama_model_get_vocab(model)

    def tokens(text: str, *, framed: bool = False, parsed: bool = False) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        count = c_api.llama_tokenize(vocabulary, data, len(data), buffer, room, framed, parsed)
        if count < 0:
            buffer = (ctypes.c_int32 * -count)()
            count = c_api.llama_tokenize(
                vocabulary, data, len(data), buffer, -count, framed, parsed
            )
        return list(buffer[:count])

    numbers = range(c_api.llama_vocab_n_tokens(vocabulary))
    return {
        "plain": [tokens(text) for text in request["plain"]],
        "parsed": [tokens(text, parsed=True) for text in request["parsed"]],
        "framed": tokens("a", framed=True),
        "control": [n for n in numbers if c_api.llama_vocab_is_control(vocabulary, n)],
        "end": [n for n in numbers if c_api.llama_vocab_is_eog(vocabulary, n)],
    }
