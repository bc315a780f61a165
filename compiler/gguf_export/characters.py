"""A vocabulary of characters, under llama.cpp's "gpt2".

llama.cpp knows no such tokenizer, but its byte-level BPE can be one: each character of
several bytes gets the merges that put its bytes together from the left, and nothing else
is ever merged. The first byte of a character occurs in no other place, so no merge
reaches into a neighbour, and how a text is cut before does not matter.

One difference remains, and is stated: a character that is not in the vocabulary becomes
the unknown token in the source, and no token at all in llama.cpp.
"""

from __future__ import annotations

from typing import Final

from compiler.gguf_export.bytelevel import SYMBOLS, UNUSABLE_MERGE
from compiler.gguf_export.pieces import BYTE_LEVEL, Pieces, TokenizerContent

_EACH_CHARACTER: Final = {
    "type": "Split",
    "pattern": {"Regex": r"[\s\S]"},
    "behavior": "Isolated",
    "invert": False,
}
DROPPED_NOTE: Final = (
    "characters that are not in the vocabulary are left out, where the source's tokenizer has "
    "an unknown token"
)


def fits(source: TokenizerContent) -> bool:
    """Tell whether a tokenizer does nothing but look characters up."""
    added = {token["content"] for token in source.added.values()}
    return (
        source.model.get("type") == "WordLevel"
        and source.content.get("pre_tokenizer") == _EACH_CHARACTER
        and source.content.get("normalizer") is None
        and all(len(text) == 1 or text in added for text in source.vocabulary)
    )


def read(source: TokenizerContent) -> Pieces:
    """Return the pieces of a vocabulary of characters; `fits` has said that it is one."""
    texts: dict[int, str] = {}
    merges: dict[str, None] = {}
    for text, number in source.vocabulary.items():
        if number in source.added:
            continue
        symbols = "".join(SYMBOLS[byte] for byte in text.encode())
        texts[number] = symbols
        for end in range(1, len(symbols)):
            merges[f"{symbols[:end]} {symbols[end]}"] = None
    unknown = source.model.get("unk_token")
    return Pieces(
        model=BYTE_LEVEL,
        pre="gpt-2",
        texts=texts,
        types={},
        merges=tuple(merges) or (UNUSABLE_MERGE,),
        dropped=source.vocabulary.get(unknown) if isinstance(unknown, str) else None,
        notes=(DROPPED_NOTE,),
    )
