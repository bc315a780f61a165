"""What an export to GGUF came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Types that matrices can be written in; vectors always stay float32, as llama.cpp wants.
DTYPES: Final = ("f16", "f32", "bf16", "q8_0")


@dataclass(frozen=True, slots=True)
class GgufExport:
    """A GGUF file that was made here.

    Attributes:
        path: the file.
        sha256: its digest, 64 hexadecimal digits.
        size_bytes: its length.
        architecture: `general.architecture`, for instance "llama".
        dtype: the type of its matrices; one of `DTYPES`.
        tokenizer: `tokenizer.ggml.model`, for instance "gpt2".
        pre_tokenizer: `tokenizer.ggml.pre`, or None where the model has none.
        context_tokens: the longest input that the model was made for.
        weights: SHA-256 of each file of weights that was read, by its name in the source.
        tokens_checked: tokens that llama.cpp and the source's tokenizer agreed on.
        notes: what differs from the source, for a person; usually empty.
        tools: name to version of what made it; enough to make the same bytes again.
    """

    path: Path
    sha256: str
    size_bytes: int
    architecture: str
    dtype: str
    tokenizer: str
    pre_tokenizer: str | None
    context_tokens: int
    weights: Mapping[str, str]
    tokens_checked: int
    notes: tuple[str, ...]
    tools: Mapping[str, str]
