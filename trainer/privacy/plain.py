"""Frozen dataclasses of plain values, to JSON and strictly back.

A section of a report is a dataclass whose fields are annotated with what JSON knows:
`int` (0 or more), `float`, `str`, `bool`, another such dataclass, `tuple[X, ...]`,
`Mapping[str, str]` or `Mapping[str, float]`, and `X | None`. Reading refuses a key that
is missing or unknown and a value of another type, and names it with its whole path;
values are never echoed.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from trainer.checkpointing.fields import array, exactly, integer, mapping, number, text
from trainer.errors import CheckpointError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Return JSON types for a value of such a dataclass."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(each) for each in value]
    return value


def from_plain(cls: type[T], value: object, where: str) -> T:
    """Read a dataclass from parsed JSON.

    Raises:
        CheckpointError: naming the key that is missing, unknown or ill-typed.
    """
    kinds = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cast(Any, cls))]
    entry = exactly(value, frozenset(names), where)
    return cls(**{name: _read(kinds[name], entry[name], f"{where}.{name}") for name in names})


def _read(kind: Any, value: object, where: str) -> Any:
    arguments = get_args(kind)
    origin = get_origin(kind)
    if origin is types.UnionType:
        (inner,) = (each for each in arguments if each is not type(None))
        return None if value is None else _read(inner, value, where)
    if origin is tuple:
        items = enumerate(array(value, where))
        return tuple(_read(arguments[0], each, f"{where}[{index}]") for index, each in items)
    if origin is Mapping:
        # Keys come from the document, so they are not repeated in a message.
        return {
            key: _read(arguments[1], each, where) for key, each in mapping(value, where).items()
        }
    if dataclasses.is_dataclass(kind):
        return from_plain(cast(type, kind), value, where)
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: object, where: str) -> Any:
    if kind is bool:
        if not isinstance(value, bool):
            raise CheckpointError(f"{where} is neither true nor false")
        return value
    readers = {int: integer, float: number, str: text}
    return readers[kind](value, where)  # type: ignore[operator]
