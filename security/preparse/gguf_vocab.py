"""Check the tokenizer inside a GGUF file.

The vocabulary is the part of a GGUF that parsers have tripped over most often: lists
whose types or lengths do not match, special token ids beyond the list, byte tokens
such as `<0x-1>`. llama.cpp aborts the process on a repeated token, and throws in the
middle of a request when a SentencePiece vocabulary lacks a byte, so both are refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from security.preparse.gguf_wire import Array, Scalar, ValueType
from security.preparse.limits import GgufLimits
from security.preparse.refuse import refuse, shown

SENTENCEPIECE = "llama"
BYTE_LEVEL = "gpt2"
TOKENIZER_MODELS = frozenset({SENTENCEPIECE, BYTE_LEVEL})

_PREFIX = "tokenizer.ggml."
_TOKEN_TYPE_BYTE = 6
_TOKEN_TYPES = frozenset(range(1, 7))
_BYTE_TOKEN = re.compile(rb"<0x[0-9A-F]{2}>")
_ALL_BYTES = frozenset(b"<0x%02X>" % byte for byte in range(256))

_STRINGS = frozenset({"model", "pre"})
_FLAGS = frozenset(
    {
        "add_bos_token",
        "add_eos_token",
        "add_sep_token",
        "add_space_prefix",
        "remove_extra_whitespaces",
    }
)
_ARRAYS = {
    "tokens": ValueType.STRING,
    "merges": ValueType.STRING,
    "scores": ValueType.FLOAT32,
    "token_type": ValueType.INT32,
}
_ID_SUFFIX = "_token_id"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the rest of the checks need to know of the tokenizer."""

    model: str
    size: int
    bos: str | None
    eos: str | None
    add_bos: bool | None


def check_vocabulary(pairs: dict[str, Scalar | Array], limits: GgufLimits) -> Vocabulary:
    """Check every `tokenizer.ggml.` key; return the facts.

    Raises:
        UnsafeModelError: an unknown tokenizer, wrong types, unequal lengths, bad tokens.
    """
    found = {k[len(_PREFIX) :]: v for k, v in pairs.items() if k.startswith(_PREFIX)}
    for name, item in found.items():
        _check_type(name, item)
    model = found.get("model")
    if not isinstance(model, Scalar) or model.value not in TOKENIZER_MODELS:
        known = ", ".join(sorted(TOKENIZER_MODELS))
        refuse("tokenizer-model", f"the tokenizer is none of the supported ones ({known})")
    tokens = _strings(found, "tokens")
    _check_tokens(tokens, limits)
    _check_types_and_scores(found, tokens, str(model.value))
    if model.value == BYTE_LEVEL:
        _check_merges(_strings(found, "merges"), limits)
    ids = _special_ids(found, len(tokens))
    flag = found.get("add_bos_token")
    return Vocabulary(
        model=str(model.value),
        size=len(tokens),
        bos=_token_text(tokens, ids.get("bos")),
        eos=_token_text(tokens, ids.get("eos")),
        add_bos=bool(flag.value) if isinstance(flag, Scalar) else None,
    )


def _check_type(name: str, item: Scalar | Array) -> None:
    key = shown(_PREFIX + name)
    if name in _ARRAYS:
        if not isinstance(item, Array) or item.type is not _ARRAYS[name]:
            refuse("type-confusion", f"{key} must be a list of {_ARRAYS[name].name} values")
        return
    if isinstance(item, Array):
        refuse("type-confusion", f"{key} is a list; no list is expected there")
    if name in _STRINGS:
        wanted = ValueType.STRING
    elif name in _FLAGS:
        wanted = ValueType.BOOL
    elif name.endswith(_ID_SUFFIX) or name == "token_type_count":
        wanted = ValueType.UINT32
    else:
        refuse("unknown-tokenizer-key", f"{key} is not a known part of a tokenizer")
    if item.type is not wanted:
        refuse("type-confusion", f"{key} must be a {wanted.name} value")


def _strings(found: dict[str, Scalar | Array], name: str) -> list[bytes]:
    item = found.get(name)
    if not isinstance(item, Array) or not isinstance(item.values, list) or not item.values:
        refuse("missing-vocabulary", f"the file has no {_PREFIX}{name}")
    return item.values


def _check_tokens(tokens: list[bytes], limits: GgufLimits) -> None:
    if max(map(len, tokens)) > limits.max_token_bytes:
        refuse("token-too-long", f"a token is longer than {limits.max_token_bytes} bytes")
    # One decoding for all: a newline can neither end nor continue a UTF-8 sequence, so
    # no two broken tokens can make a valid text between them.
    joined = b"\n".join(tokens)
    if b"\0" in joined:
        refuse("nul-in-token", "a token holds a NUL, which llama.cpp would cut short")
    try:
        joined.decode()
    except UnicodeDecodeError:
        refuse("invalid-utf8", "a token is not UTF-8")
    unique = set(tokens)
    if len(unique) != len(tokens):
        refuse("duplicate-token", "two tokens have the same text")
    if b"" in unique:
        # llama.cpp renames an empty token to this, and aborts when the name is taken.
        renamed = b"[EMPTY_%d]" % tokens.index(b"")
        if renamed in unique:
            refuse("duplicate-token", "an empty token would get the name of another")


def _check_types_and_scores(
    found: dict[str, Scalar | Array], tokens: list[bytes], model: str
) -> None:
    types = _numbers(found, "token_type", len(tokens))
    if not set(types) <= _TOKEN_TYPES:
        refuse("token-type", "a token has an unknown type")
    byte_tokens = [t for t, kind in zip(tokens, types, strict=True) if kind == _TOKEN_TYPE_BYTE]
    for token in byte_tokens:
        if _BYTE_TOKEN.fullmatch(token) is None:
            refuse("byte-token", f"{shown(token)} is no byte token (<0x00> to <0xFF>)")
    if model == SENTENCEPIECE:
        scores = _numbers(found, "scores", len(tokens))
        if not math.isfinite(sum(scores)):
            refuse("bad-score", "a token's score is not a finite number")
        if not _ALL_BYTES.issubset(byte_tokens):
            refuse("byte-token", "the vocabulary lacks byte tokens, so some text has no tokens")
    elif "scores" in found:
        _numbers(found, "scores", len(tokens))


def _numbers(found: dict[str, Scalar | Array], name: str, count: int) -> tuple[int | float, ...]:
    item = found.get(name)
    if not isinstance(item, Array) or isinstance(item.values, list):
        refuse("missing-vocabulary", f"the file has no {_PREFIX}{name}")
    if len(item.values) != count:
        refuse("unequal-lengths", f"{count} tokens, but {len(item.values)} entries of {name}")
    return item.values


def _check_merges(merges: list[bytes], limits: GgufLimits) -> None:
    if max(map(len, merges)) > 2 * limits.max_token_bytes:
        refuse("token-too-long", "a merge is longer than two tokens")
    joined = b"\n".join(merges)
    if b"\0" in joined:
        refuse("nul-in-token", "a merge holds a NUL")
    try:
        joined.decode()
    except UnicodeDecodeError:
        refuse("invalid-utf8", "a merge is not UTF-8")
    if any(b" " not in merge[1:-1] for merge in merges):
        refuse("bad-merge", "a merge is not two tokens with a space between them")


def _special_ids(found: dict[str, Scalar | Array], count: int) -> dict[str, int]:
    ids: dict[str, int] = {}
    for name, item in found.items():
        if not name.endswith(_ID_SUFFIX) or not isinstance(item, Scalar):
            continue
        number = int(item.value)
        if number >= count:
            refuse("special-token", f"{name} is {number}, but there are {count} tokens")
        ids[name.removesuffix(_ID_SUFFIX)] = number
    return ids


def _token_text(tokens: list[bytes], number: int | None) -> str | None:
    return None if number is None else tokens[number].decode()
