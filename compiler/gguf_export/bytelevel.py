"""Byte-level BPE (GPT-2): the same vocabulary and merges, under llama.cpp's "gpt2".

It refuses what llama.cpp would silently do otherwise: a regular expression that it does
not have, dropout, prefixes and suffixes of words, a vocabulary without all bytes (its
missing ones would vanish from texts), and any normalization but NFC.

NFC is accepted with a note: llama.cpp does not normalize, so text that is not in NFC gets
other tokens there. Most text is in NFC, and the Qwen models all ask for it.
"""

from __future__ import annotations

from typing import Final

from compiler.gguf_export.pieces import BYTE_LEVEL, Pieces, TokenizerContent
from compiler.gguf_export.pretokenizers import known_pretokenizers, pretokenizer_name

_UNWANTED: Final = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
NFC_NOTE: Final = "text that is not in NFC gets other tokens: llama.cpp does not normalize"


def _symbols() -> tuple[str, ...]:
    """Return the character that stands for each byte in such a vocabulary.

    Printable characters of Latin-1 stand for themselves, the other bytes for the
    characters from U+0100 on, in order (Radford et al. 2019, GPT-2's code).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    symbols, others = [], 0
    for byte in range(256):
        symbols.append(chr(byte if byte in printable else 0x100 + others))
        others += byte not in printable
    return tuple(symbols)


SYMBOLS: Final = _symbols()


def read(source: TokenizerContent) -> Pieces:
    """Return the pieces of a byte-level BPE.

    Raises:
        SourceError: see the module.
    """
    source.require_without(_UNWANTED)
    normalizer = source.content.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise source.refuse("a BPE that normalizes text is not exported to GGUF")
    pre = pretokenizer_name(source.content)
    if pre is None:
        raise source.refuse(
            "llama.cpp has no pre-tokenizer with exactly this one's regular expression; the "
            f"known ones are {', '.join(known_pretokenizers())}"
        )
    missing = sum(symbol not in source.vocabulary for symbol in SYMBOLS)
    if missing:
        raise source.refuse(
            f"the vocabulary lacks {missing} bytes, which llama.cpp would drop from a text"
        )
    merges = source.model.get("merges") or []
    return Pieces(
        model=BYTE_LEVEL,
        pre=pre,
        texts={number: text for text, number in source.vocabulary.items()},
        types={},
        merges=tuple(m if isinstance(m, str) else " ".join(m) for m in merges) or (UNUSABLE_MERGE,),
        nfc=normalizer is not None,
        notes=() if normalizer is None else (NFC_NOTE,),
    )


# llama.cpp wants merges, be it one. These bytes are in no UTF-8 text.
UNUSABLE_MERGE: Final = f"{SYMBOLS[0xC0]} {SYMBOLS[0xC1]}"
