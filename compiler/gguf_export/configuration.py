"""What config.json says of a decoder, with its class's defaults where it says nothing.

transformers leaves out of the file what equals the default of the configuration's class,
so each family brings its defaults along; tests compare them with the classes themselves.
A null in the file is a value of its own ("there is none") and no default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.errors import SourceError
from compiler.files import read_json

CONFIG_FILE: Final = "config.json"
# The bounds only keep absurd files from absurd allocations.
MAX_SIZE: Final = 1 << 20
MAX_LAYERS: Final = 512
MAX_CONTEXT_TOKENS: Final = 1 << 24
_MAX_REAL: Final = 1e12


class Configuration:
    """config.json, asked for one typed value at a time.

    Attributes:
        path: the file, for errors.
    """

    def __init__(self, folder: Path, defaults: Mapping[str, Any] | None = None) -> None:
        """Read the file of a model directory.

        Raises:
            SourceError: missing, no JSON, or no object.
        """
        self.path = folder / CONFIG_FILE
        if not self.path.is_file():
            raise SourceError(f"{folder}: has no {CONFIG_FILE}")
        values = read_json(self.path)
        if not isinstance(values, dict):
            raise SourceError(f"{self.path}: is not a JSON object")
        self._values: dict[str, Any] = {**(defaults or {}), **values}

    def raw(self, name: str) -> Any:
        """Return the value called `name` as it stands, or None."""
        return self._values.get(name)

    def refuse(self, problem: str) -> SourceError:
        """Return the error that names this file, for the caller to raise."""
        return SourceError(f"{self.path}: {problem}")

    def text(self, name: str) -> str:
        """Return a text; "" where there is none."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.refuse(f"{name!r} is no text")
        return value or ""

    def flag(self, name: str) -> bool:
        """Return a flag; False where there is none."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(f"{name!r} is neither true nor false")
        return bool(value)

    def count(self, name: str, limit: int = MAX_SIZE) -> int:
        """Return a number from 1 to `limit` that must be there."""
        value = self._values.get(name)
        if type(value) is not int or not 1 <= value <= limit:
            raise self.refuse(f"needs {name!r} as a number from 1 to {limit}")
        return value

    def optional_count(self, name: str, limit: int = MAX_SIZE) -> int | None:
        """Return a number from 1 to `limit`, or None where there is none."""
        return None if self._values.get(name) is None else self.count(name, limit)

    def real(self, name: str) -> float:
        """Return a positive finite number that must be there."""
        return positive(self.path, name, self._values.get(name))


def positive(path: Path, name: str, value: object) -> float:
    """Return `value` as a positive finite number.

    Raises:
        SourceError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SourceError(f"{path}: needs {name!r} as a number")
    if not math.isfinite(value) or not 0 < value <= _MAX_REAL:
        raise SourceError(f"{path}: {name!r} is no positive number")
    return float(value)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a decoder, in elements; `context` in tokens."""

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int


def read_sizes(config: Configuration) -> Sizes:
    """Return the sizes, checked against each other.

    Raises:
        SourceError: missing, out of bounds or inconsistent.
    """
    width, heads = config.count("hidden_size"), config.count("num_attention_heads", 1024)
    kv_heads = config.optional_count("num_key_value_heads", 1024) or heads
    head_width = config.optional_count("head_dim")
    if head_width is None:
        if width % heads:
            raise config.refuse("hidden_size is not a multiple of num_attention_heads")
        head_width = width // heads
    if heads % kv_heads:
        raise config.refuse(f"{heads} heads cannot share {kv_heads} key-value heads")
    if head_width % 2:
        raise config.refuse(f"a head is {head_width} wide; rotary positions need an even width")
    return Sizes(
        width=width,
        inner=config.count("intermediate_size"),
        layers=config.count("num_hidden_layers", MAX_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        vocabulary=config.count("vocab_size", 1 << 22),
        context=config.count("max_position_embeddings", MAX_CONTEXT_TOKENS),
    )
