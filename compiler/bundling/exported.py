"""What an export of weights came to: the facts that a bundle's statement tells of it.

They are kept beside the exported file in the work folder, since a compilation that is taken
up again does not export again. What is read back there is ours; if it is not whole it counts
as missing, and the export is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from security.bundle.fields import FieldError, Fields
from security.files import write_atomic
from security.strictjson import JsonValue, canonical

if TYPE_CHECKING:
    from compiler.gguf_export.result import GgufExport
    from compiler.onnx_export.result import OnnxExport

_MAX_ITEMS: Final = 256
_MAX_CHARS: Final = 2000
_MOST: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Export:
    """How a model file was made here of weights.

    Attributes:
        tools: what made it, name to version.
        weights: SHA-256 of each file of weights that was read, by its name in the source.
        notes: what differs from the source, for a person; usually empty.
        tokens_checked: tokens that llama.cpp and the source's tokenizer agreed on; None for
            a graph, which has no tokenizer of its own.
        pre_tokenizer: `tokenizer.ggml.pre` of a GGUF, or None.
        opset: version of a graph's standard operators; None for a GGUF.
    """

    tools: Mapping[str, str]
    weights: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())
    tokens_checked: int | None = None
    pre_tokenizer: str | None = None
    opset: int | None = None

    @classmethod
    def of_gguf(cls, made: GgufExport) -> Export:
        """Return the facts of an export to GGUF."""
        return cls(
            dict(made.tools),
            dict(made.weights),
            made.notes,
            tokens_checked=made.tokens_checked,
            pre_tokenizer=made.pre_tokenizer,
        )

    @classmethod
    def of_onnx(cls, made: OnnxExport) -> Export:
        """Return the facts of an export to ONNX."""
        return cls(dict(made.tools), dict(made.weights), opset=made.opset)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON values, one for each attribute."""
        return {**asdict(self), "notes": list(self.notes)}


def keep_export(path: Path, export: Export) -> None:
    """Write the facts of an export to `path`, whole or not at all."""
    write_atomic(path, canonical(export.to_dict()), mode=0o600)


def kept_export(path: Path) -> Export | None:
    """Return the facts that `keep_export` wrote, or None where they are not, or not whole."""
    try:
        given = Fields(json.loads(path.read_bytes()), path.name)
        export = Export(
            tools=_texts(given, "tools"),
            weights=_texts(given, "weights"),
            notes=given.texts("notes", _MAX_ITEMS, _MAX_CHARS),
            tokens_checked=_integer(given, "tokens_checked"),
            pre_tokenizer=given.optional_text("pre_tokenizer", _MAX_CHARS),
            opset=_integer(given, "opset"),
        )
        given.done()
    except (OSError, ValueError, FieldError):
        return None
    return export


def _integer(given: Fields, name: str) -> int | None:
    return None if given.is_null(name) else given.integer(name, 0, _MOST)


def _texts(given: Fields, name: str) -> dict[str, str]:
    value = given.raw(name)
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise FieldError(f"{name}: must be an object of texts")
    return dict(value)
