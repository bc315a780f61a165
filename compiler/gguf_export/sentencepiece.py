"""BPE of SentencePiece (Kudo and Richardson 2018), under llama.cpp's "llama".

tokenizer.json lists merges by rank; llama.cpp has a score for each token, and may join any
two pieces whose text is a token, the highest score first. Both give the same tokens when
every way to cut a token in two is a merge and the merges that make one token stand
together in the list: then minus the rank of a token's first merge serves as its score.
Files made from a SentencePiece model are so; any other is refused.

Spaces are written as U+2581, and bytes without a token as <0x00> to <0xFF>, all of which
must be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from itertools import pairwise
from typing import Any, Final

from compiler.gguf_export.pieces import (
    BYTE,
    SENTENCEPIECE,
    UNKNOWN,
    Pieces,
    TokenizerContent,
)

_SPACE: Final = "\u2581"
_REPLACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_PREPEND: Final = {"type": "Prepend", "prepend": _SPACE}
# llama.cpp joins any two pieces whose text is a token, be it a control token.
BUILT_NOTE: Final = (
    "a text that spells a control token may be taken for it by llama.cpp, whatever it is told; "
    "Casemate's runtime cuts such a text in two"
)
_UNWANTED: Final = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


def read(source: TokenizerContent) -> Pieces:
    """Return the pieces of a BPE with byte fallback.

    Raises:
        SourceError: see the module.
    """
    source.require_without(_UNWANTED)
    prefix = _space_prefix(source.content)
    if prefix is None:
        raise source.refuse(
            "the tokenizer prepares a text in another way than SentencePiece's BPE models do; "
            "llama.cpp cannot do the same"
        )
    bytes_ = {number for text, number in source.vocabulary.items() if text in _BYTES}
    if len(bytes_) != len(_BYTES):
        raise source.refuse("the vocabulary lacks some of the bytes <0x00> to <0xFF>")
    types = dict.fromkeys(sorted(bytes_), BYTE)
    normal = set(source.vocabulary) - {token["content"] for token in source.added.values()}
    built = tuple(
        token["content"]
        for token in source.added.values()
        if token.get("special") and _joins(token["content"], normal)
    )
    unknown = source.vocabulary.get(str(source.model.get("unk_token")))
    if unknown is not None:
        types[unknown] = UNKNOWN
    return Pieces(
        model=SENTENCEPIECE,
        pre="default",
        texts={number: text for text, number in source.vocabulary.items()},
        types=types,
        scores=_scores(source, frozenset(types) | frozenset(source.added)),
        add_space_prefix=prefix,
        built=built,
        notes=(BUILT_NOTE,) if built else (),
    )


_BYTES: Final = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def _joins(text: str, tokens: Set[str]) -> bool:
    """Tell whether two tokens make `text`."""
    return any(text[:cut] in tokens and text[cut:] in tokens for cut in range(1, len(text)))


def _space_prefix(content: Mapping[str, Any]) -> bool | None:
    """Return whether a space is put before a text, or None for another preparation."""
    normalizer, before = content.get("normalizer"), content.get("pre_tokenizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers")
    else:
        steps = [] if normalizer is None else [normalizer]
    if before is not None and before.get("type") == "Metaspace" and not steps:
        scheme = before.get("prepend_scheme", "always")
        plain = before.get("replacement") == _SPACE and before.get("split") is False
        return {"first": True, "never": False}.get(scheme) if plain else None
    # Gemma cuts at spaces that its normalizer has replaced already: at nothing.
    if before is not None and (before.get("type"), before.get("pattern")) != (
        "Split",
        {"String": " "},
    ):
        return None
    if steps == [_PREPEND, _REPLACE]:
        return True
    return False if steps == [_REPLACE] else None


def _scores(source: TokenizerContent, special: frozenset[int]) -> dict[int, float]:
    """Return minus the rank of each token's first merge.

    Raises:
        SourceError: the merges are not those of a SentencePiece model.
    """
    ranks: dict[tuple[str, str], int] = {}
    for rank, merge in enumerate(source.model.get("merges") or []):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks[left, right] = rank
    spans: list[tuple[int, int, int]] = []
    for text, number in source.vocabulary.items():
        if number in special or len(text) < 2:
            continue
        made = list(_ways(text, source.vocabulary, ranks, special))
        if None in made:
            raise source.refuse(
                "its merges are not those of a SentencePiece model: llama.cpp would join pieces "
                "that this tokenizer does not"
            )
        found = [rank for rank in made if rank is not None]
        if found:
            spans.append((min(found), max(found), number))
    spans.sort()
    for (_, last, _), (first, _, _) in pairwise(spans):
        if first < last:
            raise source.refuse(
                "its merges are not in the order of a SentencePiece model; llama.cpp would join "
                "pieces in another order"
            )
    return {number: -float(first + 1) for first, _, number in spans}


def _ways(
    text: str,
    vocabulary: Mapping[str, int],
    ranks: Mapping[tuple[str, str], int],
    special: frozenset[int],
) -> Iterator[int | None]:
    """Yield the rank of each way to make `text` of two tokens; None where it is no merge."""
    for cut in range(1, len(text)):
        left, right = text[:cut], text[cut:]
        parts = (vocabulary.get(left), vocabulary.get(right))
        if None not in parts and not special.intersection(p for p in parts if p is not None):
            yield ranks.get((left, right))
