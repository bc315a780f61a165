"""Prove that llama.cpp cuts texts into the same tokens as the source's tokenizer.

Before a GGUF is handed on, both tokenize a set of texts that is built in (many scripts,
white space, digits, apostrophes, control characters, spellings of control tokens) and texts
made of the vocabulary itself, which reach merges that prose does not. One token that
differs, a framing that differs, or an ordinary token that llama.cpp takes for a control or
an end of text: refused. A user's text is never needed and never read.

llama.cpp runs in a process of its own, bounded in time.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from pathlib import Path
from typing import Any, Final

from compiler.child.job import run_child
from compiler.errors import ChildError, SourceError
from compiler.gguf_export.pieces import CONTROL, UNKNOWN, USER_DEFINED
from compiler.gguf_export.vocabulary import Vocabulary
from compiler.tokenizer.file import Frame, TokenizerFile

TIMEOUT_SECONDS: Final = 300
_MODULE: Final = "compiler.gguf_export.tokenize_process"
# Tokens of the vocabulary that are strung together, and how many make a text.
_SAMPLE_TOKENS: Final = 4096
_TEXT_TOKENS: Final = 16

TEXTS: Final = (
    "Hello, world! It's the keeper's 2nd lamp; we'll see what they've said, I'd say.",
    "HE'S SAID: WE'LL GO, THEY'VE 'Twas I'M 'S 'lL don't DON'T l'été",
    " leading, trailing ",
    "  two   three    four     spaces\t\ttabs \t mixed\n\n\nlines\r\n \r\n  \n end\n",
    "0 1 12 123 1234 12345 1,234,567.89 3.14159e-10 0x1F 2nd ½ Ⅷ ٣٤٥ 一二三 ²³",
    "def f(x):\n    return {'a': [1, 2], \"b\": x**2}  # comment\n\n\tif x != y: pass\n",
    "naïve café façade Ångström œuvre ﬁne e\u0301 ñ İstanbul ıı ẞ ß ΑΒΓ αβγ ς",
    "Привет, мир! Ёжик — «кавычки» № 5. Україна. Ђорђе",
    "שלום עולם. مرحبا بالعالم، كيف حالك؟ नमस्ते दुनिया। สวัสดีชาวโลก",
    "你好，世界！東京は日本の首都です。안녕하세요 세계. ㄱㄴㄷ ｆｕｌｌｗｉｄｔｈ　１２３",
    "emoji 👍🏽 👩‍👩‍👧‍👦 🇺🇦 ❤️ ✨ math ∑∏√∞ ≤≥≠ ∀x∈ℝ arrows ←→⇒ € £ ¥ ₿ § ¶ © ® ™",
    "http://example.org/a?b=c&d=%20#e user@example.org C:\\path\\to\\file ../x/y.z",
    "zero\u200bwidth\u200djoin\ufeffbom nbsp\u00a0thin\u2009em\u2003line\u2028para\u2029nel\u0085",
    "\x00\x01\x02\x07\x08\x0b\x0c\x0e\x1b\x7f\x80\x9f\xad\ufffd\ue000\U0010ffff",
    "<|endoftext|> <s> </s> <unk> <pad> [PAD] [UNK] [CLS] <|im_start|>user<|im_end|> <0x0A>",
    "a" * 64 + " " * 33 + "\n" * 9 + "." * 40 + "!?" * 10 + "-_" * 10,
    "▁ Ġ Ċ Ã © À Á ▁▁ĠĠ",
    "",
    " ",
    "\n",
)


def require_llama(origin: Path) -> None:
    """Refuse to begin what could not be proven here.

    Raises:
        SourceError: llama-cpp-python is not installed.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise SourceError(
            f"{origin}: whether llama.cpp gives the same tokens is checked with llama-cpp-python, "
            "which is not installed here; install the runtime extra"
        )


def check_tokens(path: Path, vocabulary: Vocabulary, tokenizer: TokenizerFile, origin: Path) -> int:
    """Compare both tokenizers; return how many tokens were compared.

    Args:
        path: the GGUF.
        vocabulary: what was written into it.
        tokenizer: the source's.
        origin: the source, for errors.

    Raises:
        SourceError: they differ, or llama.cpp does not take the file.
    """
    plain = [*TEXTS, *_from_vocabulary(vocabulary, tokenizer), *_spellings(vocabulary)]
    if vocabulary.nfc:
        plain = [unicodedata.normalize("NFC", text) for text in plain]
    parsed = plain
    plain = [text for text in plain if not any(token in text for token in vocabulary.built)]
    if vocabulary.dropped is not None:
        # Where the unknown token is spelled, llama.cpp gives it and does not drop it.
        unknown = vocabulary.tokens[vocabulary.dropped]
        parsed = [text for text in parsed if unknown not in text]
    answer = _ask(path, {"plain": plain, "parsed": parsed}, origin)
    _check_types(answer, vocabulary, origin)
    wanted = tokenizer.cut(plain, literal=True)
    count = _compare(wanted, answer["plain"], vocabulary, origin)
    wanted = tokenizer.cut(parsed, literal=False)
    count += _compare(wanted, answer["parsed"], vocabulary, origin)
    if vocabulary.special:
        _check_frame(answer["framed"], vocabulary, tokenizer.frame, origin)
    return count


def _from_vocabulary(vocabulary: Vocabulary, tokenizer: TokenizerFile) -> list[str]:
    """Return texts strung together of tokens from all over the vocabulary."""
    size = len(vocabulary.tokens)
    # A step that has no factor in common with the size would visit every token.
    step = max(1, size // _SAMPLE_TOKENS)
    chosen = [
        number
        for number in range(0, size, step)
        if vocabulary.types[number] not in (CONTROL, UNKNOWN)
    ]
    return tokenizer.spell(chosen, _TEXT_TOKENS)


def _spellings(vocabulary: Vocabulary) -> list[str]:
    """Return texts that spell the added tokens, alone, in pairs and inside of words."""
    kinds = (CONTROL, USER_DEFINED)
    added = [
        text
        for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in kinds
    ][:256]
    return [
        f"one{text}two {text} three\n{after}"
        for text, after in zip(added, added[1:] + added[:1], strict=True)
    ]


def _ask(path: Path, request: dict[str, Any], origin: Path) -> dict[str, Any]:
    request |= {"gguf": str(path.absolute())}
    try:
        return run_child(_MODULE, request, seconds=TIMEOUT_SECONDS)
    except (ChildError, SourceError) as error:
        raise SourceError(
            f"{origin}: llama.cpp does not take the vocabulary that was made of it: {error}"
        ) from error


def _compare(
    wanted: list[list[int]], found: list[list[int]], vocabulary: Vocabulary, origin: Path
) -> int:
    count = 0
    for number, (theirs, ids) in enumerate(zip(wanted, found, strict=True)):
        kept = [token for token in theirs if token != vocabulary.dropped]
        if kept != ids:
            raise SourceError(
                f"{origin}: llama.cpp cuts text {number} of the built-in comparison into "
                f"{len(ids)} tokens that are not the {len(kept)} of the source's tokenizer; "
                "this tokenizer cannot be exported to GGUF"
            )
        count += len(ids)
    return count


def _check_frame(framed: list[int], vocabulary: Vocabulary, frame: Frame, origin: Path) -> None:
    wanted = [token for token in frame.bare if token != vocabulary.dropped]
    front = [vocabulary.special["bos"]] if vocabulary.add_bos else []
    back = [vocabulary.special["eos"]] if vocabulary.add_eos else []
    if framed != [*front, *wanted, *back]:
        raise SourceError(f"{origin}: llama.cpp puts other tokens around a text than its source")


def _check_types(answer: dict[str, Any], vocabulary: Vocabulary, origin: Path) -> None:
    """Refuse ordinary tokens that llama.cpp takes for something else by their spelling."""
    ordinary = {
        number for number, kind in enumerate(vocabulary.types) if kind not in (CONTROL, UNKNOWN)
    }
    for name, meaning in (("control", "a control token"), ("end", "the end of a text")):
        taken = sorted(ordinary.intersection(answer[name]))
        if taken:
            raise SourceError(
                f"{origin}: llama.cpp takes the ordinary token {taken[0]} for {meaning} because "
                "of its spelling; this vocabulary cannot be exported to GGUF"
            )
    if "eos" in vocabulary.special and vocabulary.special["eos"] not in answer["end"]:
        raise SourceError(f"{origin}: llama.cpp does not take the end of a text for one")
