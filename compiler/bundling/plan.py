"""What a source will become: decided before a byte is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from compiler.bundling.attesting import Records
from compiler.bundling.exported import Export
from security.bundle.manifest import Encoder, SpecialTokens

# Tells the caller what is going on, in a few words.
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The contents of a bundle, less what the user chooses.

    Attributes:
        task: "generate", "embed", "classify" or "tensor".
        backend: "llama.cpp" or "onnxruntime".
        origin: the file or folder that errors are to name.
        write_model: writes the model file to the path that it is given.
        context_tokens: the longest input the model was made for; 0 for tensor graphs.
        tokenizer: content of tokenizer.json, or None when the model file carries one.
        special_tokens: texts of the tokens that a chat template may use.
        encoder: how a text becomes a vector or a label; None for other tasks.
        chat_template: the one that came with the model; used only when asked for.
        license: what the model says of its license, or None.
        records: where the weights come from and what they reveal, if they say so.
        export: how the model file is made here of weights; None where it is not.
        note: what is not carried over into the bundle, for a person; or None.
        sha256: digest of the file that `write_model` writes, where it is one of the source's
            own, copied as it is; None where it is made here.
    """

    task: str
    backend: str
    origin: Path
    write_model: Callable[[Path, Report], None]
    context_tokens: int
    tokenizer: bytes | None = None
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)
    encoder: Encoder | None = None
    chat_template: str | None = None
    license: str | None = None
    records: Records | None = None
    export: Export | None = None
    note: str | None = None
    sha256: str | None = None
