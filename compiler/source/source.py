"""A source as a frozen value: what was given, and what it says it is.

Invariant: a Source was looked at, not trusted: its files were there, regular and whole when
it was read. Whoever records what something was made of takes `digests` before, and after has
`read_source` look again (`require_unchanged` in read.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from compiler.files import ANYWHERE, digest_of

CHECKPOINT: Final = "checkpoint"
HUGGINGFACE: Final = "huggingface"
ONNX: Final = "onnx"
GGUF: Final = "gguf"
BUNDLE: Final = "bundle"
KINDS: Final = (CHECKPOINT, HUGGINGFACE, ONNX, GGUF, BUNDLE)

# What a folder of weights is by the class that it was saved as; None leaves it to the export,
# and "tensor" stands for an output layer that none of the others serves.
GENERATE, EMBED, CLASSIFY, TENSOR = "generate", "embed", "classify", "tensor"


@dataclass(frozen=True)
class Source:
    """What can become a bundle.

    Attributes:
        path: as it was given.
        kind: one of KINDS. A "checkpoint" is a folder with a training.json beside weights.
        model_type: what config.json or the GGUF calls the architecture; "" for a graph.
        architecture: the class that a folder was saved as, such as "LlamaForCausalLM", or "".
        task: of the bundle it becomes, as far as it can be told without an export, or None.
        model: the model file of an "onnx" or "gguf" source, and of a folder that brings a
            graph; None where there are weights to export.
        files: what it consists of, names relative to `folder`, sorted.
    """

    path: Path
    kind: str
    model_type: str
    architecture: str
    task: str | None
    model: Path | None
    files: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each file, hexadecimal, by name.

        Raises:
            SourceError: a file cannot be read.
        """
        return {name: self._digest(name) for name in self.files}

    def _digest(self, name: str) -> str:
        # What the user named himself may be a link to anywhere; what lies beside it may not.
        named = name == self.path.name and not self.path.is_dir()
        return digest_of(self.folder / name, ANYWHERE if named else self.folder)

    @property
    def size_bytes(self) -> int:
        """All its files together."""
        return sum((self.folder / name).stat().st_size for name in self.files)
