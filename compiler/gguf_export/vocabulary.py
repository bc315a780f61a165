"""The tokenizer of a model directory, in the terms of a GGUF file.

| tokenizer.json | `tokenizer.ggml.model` | how |
| --- | --- | --- |
| byte-level BPE | gpt2 | as it is; `pre` names the same regular expression |
| BPE with byte fallback (SentencePiece) | llama | ranks of merges become scores |
| characters | gpt2 | each character is merged of its bytes; see `characters` |

Everything else has no counterpart that gives the same tokens, and is refused by name: a
vocabulary of words or word pieces, Unigram, normalization, tokens that swallow the space
beside them. Whether the result really gives the same tokens is for `parity` to prove.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.bundling.encoders import TOKENIZER_FILE
from compiler.errors import SourceError
from compiler.files import MAX_TOKENIZER_BYTES, read_bytes, read_json
from compiler.gguf_export import bytelevel, characters, sentencepiece
from compiler.gguf_export.configuration import Configuration
from compiler.gguf_export.pieces import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Pieces,
    TokenizerContent,
)
from compiler.gguf_export.pretokenizers import pretokenizer_name
from compiler.gguf_export.specials import read_specials
from compiler.tokenizer.file import TokenizerFile, open_tokenizer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as a GGUF states it.

    Attributes:
        model: "gpt2" or "llama".
        pre: the name of the pre-tokenizer, or None where the model has none.
        tokens: the text of each id.
        types: llama.cpp's type of each id.
        merges: pairs with a space between them, most urgent first; gpt2 only.
        scores: of each id; llama only.
        special: ids by the role's name in GGUF.
        add_bos: whether each text begins with `bos`.
        add_eos: whether each text ends with `eos`.
        add_space_prefix: llama only: whether a space is put before a text.
        chat_template: the source's own, or None.
        dropped: an id that llama.cpp leaves out where the source gives it, or None.
        nfc: the source brings texts into NFC first, which llama.cpp does not.
        built: control tokens that llama.cpp may join out of their own letters.
        notes: what differs from the source, for a person.
    """

    model: str
    pre: str | None
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    special: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool | None
    chat_template: str | None
    dropped: int | None = None
    nfc: bool = False
    built: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_vocabulary(
    folder: Path, config: Configuration, rows: int
) -> tuple[Vocabulary, TokenizerFile]:
    """Return the vocabulary of a model directory, and its tokenizer to compare with.

    Args:
        folder: where tokenizer.json lies.
        config: its config.json.
        rows: of the embedding. Rows without a token get a placeholder that is never made
            from text.

    Raises:
        SourceError: there is no tokenizer, it has more tokens than rows, or it is of a
            kind that llama.cpp cannot do the same as.
    """
    tokenizer, source = load_tokenizer(folder, rows)
    pieces = _pieces(source)
    specials = read_specials(folder, tokenizer, config)
    texts, types = _with_added(source, pieces, rows)
    return (
        Vocabulary(
            model=pieces.model,
            pre=pieces.pre,
            tokens=texts,
            types=types,
            merges=pieces.merges,
            scores=_scores(pieces, rows),
            special=specials.ids,
            add_bos=specials.add_bos,
            add_eos=specials.add_eos,
            add_space_prefix=pieces.add_space_prefix,
            chat_template=specials.chat_template,
            dropped=pieces.dropped,
            nfc=pieces.nfc,
            built=pieces.built,
            notes=pieces.notes,
        ),
        tokenizer,
    )


def load_tokenizer(folder: Path, rows: int) -> tuple[TokenizerFile, TokenizerContent]:
    """Return the tokenizer of a model directory, and its file as parsed.

    Raises:
        SourceError: there is none, or it has more tokens than the embedding has rows.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise SourceError(f"{folder}: has no {TOKENIZER_FILE}; a GGUF carries its tokenizer")
    data = read_bytes(path, MAX_TOKENIZER_BYTES)
    return open_tokenizer(path, rows), TokenizerContent(path, data)


def named_pretokenizer(folder: Path) -> str | None:
    """Return llama.cpp's name for how a byte-level BPE cuts texts; None where there is none.

    Raises:
        SourceError: tokenizer.json cannot be read.
    """
    content = read_json(folder / TOKENIZER_FILE, MAX_TOKENIZER_BYTES)
    model = content.get("model") if isinstance(content, dict) else None
    byte_level = isinstance(model, dict) and model.get("type") == "BPE"
    return pretokenizer_name(content) if byte_level else None


def _pieces(source: TokenizerContent) -> Pieces:
    kind = source.model.get("type")
    if kind == "BPE" and source.model.get("byte_fallback") is True:
        return sentencepiece.read(source)
    if kind == "BPE":
        return bytelevel.read(source)
    if characters.fits(source):
        return characters.read(source)
    raise source.refuse(
        f"a tokenizer of the kind {kind} cannot be put into a GGUF so that llama.cpp gives the "
        "same tokens; train the model with a tokenizer of the kind 'bpe' or 'character'"
    )


def _with_added(
    source: TokenizerContent, pieces: Pieces, rows: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the text and type of every row: vocabulary, added tokens, placeholders."""
    texts = [f"[PAD{number}]" for number in range(rows)]
    types = [UNUSED] * rows
    for number, text in pieces.texts.items():
        texts[number], types[number] = text, pieces.types.get(number, NORMAL)
    for number, token in source.added.items():
        if number >= rows:
            raise source.refuse(f"has tokens beyond the embedding's {rows} rows")
        strips = [name for name in ("lstrip", "rstrip", "single_word") if token.get(name)]
        if strips and not token.get("special"):
            raise source.refuse(
                f"an added token is {strips[0]}, which llama.cpp cannot do; set it to false if "
                "the model was not trained so"
            )
        texts[number] = token["content"]
        if types[number] != UNKNOWN:
            types[number] = CONTROL if token.get("special") else USER_DEFINED
    if len(set(texts)) != rows:
        raise source.refuse("two tokens have the same text")
    return tuple(texts), tuple(types)


def _scores(pieces: Pieces, rows: int) -> tuple[float, ...]:
    if pieces.scores is None:
        return ()
    return tuple(pieces.scores.get(number, 0.0) for number in range(rows))
