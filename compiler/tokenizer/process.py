"""The process that runs a tokenizer: one task a process, named in its request.

The tokenizers library raises plain Exceptions, and where it panics a BaseException that no
`except Exception` sees. Either means here that the file is not usable, and is told without
the library's words where those might quote a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from compiler.errors import SourceError
from compiler.files import MAX_TOKENIZER_BYTES, read_bytes
from compiler.progress import Progress

# What pyo3 calls a panic of Rust; it cannot be imported.
_PANIC: Final = "PanicException"
# Letters, digits and marks of some scripts, and a character that is in no vocabulary.
_SAMPLE: Final = "A text, with 12 words: naïve привет 你好 🙂 \U000e0fff."
# Bytes of UTF-8 as a token each are four, and normalization of a character gives up to 18.
_MOST_PER_CHARACTER: Final = 32
_MAX_REASON_CHARS: Final = 300


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Answer one question, in the child.

    Raises:
        SourceError: the file is no tokenizer, or it fails on a text.
    """
    del progress
    path, shown = Path(request["path"]), request["shown"]
    data = read_bytes(path, MAX_TOKENIZER_BYTES)
    with _refused(shown, "is not a tokenizer that can be read", told=True):
        tokenizer = Tokenizer.from_str(data.decode())
    match request["task"]:
        case "open":
            return _open(tokenizer, shown)
        case "numbers":
            found = {name: tokenizer.token_to_id(name) for name in request["names"]}
            return {"numbers": {name: n for name, n in found.items() if n is not None}}
        case "spell":
            return {"texts": _spell(tokenizer, shown, request["numbers"], request["length"])}
        case "cut":
            return {"ids": _cut(tokenizer, shown, request["texts"], literal=request["literal"])}
        case _:
            return _frame(tokenizer, shown, request["texts"], request["max_tokens"])


def _open(tokenizer: Tokenizer, shown: str) -> dict[str, Any]:
    padding = tokenizer.padding or {}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with _refused(shown, "fails on a text with characters that it does not know", told=True):
        sample = tokenizer.encode(_SAMPLE).ids
    if len(sample) > _MOST_PER_CHARACTER * len(_SAMPLE):
        raise SourceError(
            f"{shown}: makes {len(sample)} tokens of a text of {len(_SAMPLE)} characters; see "
            "what its normalizer does"
        )
    with _refused(shown, "makes no tokens of the letter a", told=True):
        bare = tokenizer.encode("a", add_special_tokens=False).ids
        framed = tokenizer.encode("a", add_special_tokens=True).ids
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    return {
        "highest": highest,
        "padding": padding.get("pad_id", 0),
        "bare": bare,
        "framed": framed,
    }


def _spell(tokenizer: Tokenizer, shown: str, numbers: list[int], length: int) -> list[str]:
    known = [number for number in numbers if tokenizer.id_to_token(number) is not None]
    neighbours = [known[n : n + length] for n in range(0, len(known), length)]
    far = [known[n :: max(1, len(known) // length)] for n in range(min(64, len(known)))]
    with _refused(shown, "cannot spell its own tokens"):
        return [tokenizer.decode(group) for group in (*neighbours, *far)]


def _cut(tokenizer: Tokenizer, shown: str, texts: list[str], *, literal: bool) -> list[list[int]]:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = literal
    with _refused(shown, "cannot make tokens of these texts"):
        return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def _frame(
    tokenizer: Tokenizer, shown: str, texts: list[str], max_tokens: int
) -> dict[str, list[list[int]]]:
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    with _refused(shown, "cannot make tokens of these texts"):
        encodings = tokenizer.encode_batch(texts)
    return {
        "ids": [encoding.ids for encoding in encodings],
        "types": [encoding.type_ids for encoding in encodings],
    }


@contextmanager
def _refused(shown: str, problem: str, *, told: bool = False) -> Iterator[None]:
    """Make what the tokenizers library raises within the block a SourceError.

    Args:
        shown: the file as whoever runs the compiler named it.
        problem: what to say of it.
        told: whether to add the library's own words; only where no text of a user's is cut.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        reason = f": {str(error)[:_MAX_REASON_CHARS]}" if told else ""
        raise SourceError(f"{shown}: {problem}{reason}") from error
