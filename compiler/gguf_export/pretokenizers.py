"""Which of llama.cpp's pre-tokenizers cuts a text exactly as a tokenizer.json does.

llama.cpp does not read the regular expression from the file: `tokenizer.ggml.pre` names
one that it has built in. A wrong name changes tokens, silently and only for some texts,
so a name is given only where the expression is the very same; every other one is refused.
Names whose built-in expression is a mere approximation (tekken, gpt-4o: cases of letters
beyond ASCII) are left out.

Known limit: which characters are letters and digits is a table of each library's. Of all
code points, tokenizers 0.22.2 and llama.cpp of llama-cpp-python 0.3.36 differ on 4,382
that are letters or digits since Unicode 16 (September 2024: hieroglyphs, scripts such as
Garay, a few Latin letters) and unassigned to llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGITS: Final = "each digit alone"
_CASED: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3: Final = _CASED % "{1,3}"
_QWEN2: Final = _CASED % ""

# By the steps that cut a text, and whether a piece that is a token as a whole is taken
# without its merges.
_NAMES: Final[Mapping[tuple[tuple[str, ...], bool], str]] = {
    ((GPT2,), False): "gpt-2",
    ((_DIGITS, GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
}


def known_pretokenizers() -> tuple[str, ...]:
    """Return the names that can be given, for errors and tests."""
    return tuple(sorted(_NAMES.values()))


def pretokenizer_name(content: Mapping[str, Any]) -> str | None:
    """Return the value of `tokenizer.ggml.pre` for a byte-level BPE, or None.

    Args:
        content: tokenizer.json as parsed.
    """
    steps = _steps(content.get("pre_tokenizer"))
    if steps is None:
        return None
    return _NAMES.get((steps, content["model"].get("ignore_merges") is True))


def _steps(node: Any) -> tuple[str, ...] | None:
    """Return what cuts a text before the byte-level mapping, or None if it is not known."""
    nodes = node.get("pretokenizers") if _type(node) == "Sequence" else [node]
    if not isinstance(nodes, list) or not nodes or _type(nodes[-1]) != "ByteLevel":
        return None
    steps = []
    for step in nodes[:-1]:
        cut = _step(step)
        if cut is None:
            return None
        steps.append(cut)
    last = nodes[-1]
    if last.get("add_prefix_space") is not False:
        return None
    if last.get("use_regex", True) is not False:
        steps.append(GPT2)
    return tuple(steps)


def _step(node: Any) -> str | None:
    if _type(node) == "Digits" and node.get("individual_digits") is True:
        return _DIGITS
    if _type(node) != "Split" or node.get("behavior") != "Isolated" or node.get("invert"):
        return None
    pattern = node.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    return expression if isinstance(expression, str) else None


def _type(node: Any) -> str:
    kind = node.get("type") if isinstance(node, dict) else None
    return kind if isinstance(kind, str) else ""
