"""Reads JSON as strictly as a security decision needs; writes the canonical form.

Two readers that disagree about one text are a hole, so whatever JSON lets readers
interpret differently is refused here: duplicate keys, NaN and infinities, numbers
outside the exactly representable range, lone surrogates, a byte-order mark,
encodings other than UTF-8, and nesting deep enough to exhaust a stack.

Invariants: `parse` is bounded in time and memory by `max_bytes` and `max_depth`,
and everything it returns can be written by `canonical` (RFC 8785) without loss.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import rfc8785

# RFC 8785 section 3.2.2.3: integers an IEEE 754 double represents exactly.
MAX_SAFE_INTEGER: Final = 2**53 - 1
_MAX_NUMBER_CHARS: Final = 32
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# A string (one that never ends reaches to the end of the data), or a bracket.
# Possessive, so that no input makes it scan a byte twice.
_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)

JsonValue = Mapping[str, "JsonValue"] | Sequence["JsonValue"] | str | int | float | bool | None


class StrictJsonError(ValueError):
    """The bytes are not JSON in the strict sense of this module; says why."""


def parse(data: bytes, *, max_bytes: int, max_depth: int = 16) -> object:
    """Return the value that `data` encodes.

    Raises:
        StrictJsonError: it is too large, too deep, or any reader could differ on it.
    """
    if len(data) > max_bytes:
        raise StrictJsonError(f"{len(data)} bytes, more than the limit of {max_bytes}")
    if data.startswith(b"\xef\xbb\xbf"):
        raise StrictJsonError("starts with a byte-order mark")
    _check_depth(data, max_depth)
    try:
        text = data.decode("utf-8", "strict")
        value: object = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except StrictJsonError:
        raise
    except UnicodeDecodeError as error:
        raise StrictJsonError("not valid UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise StrictJsonError(f"not JSON: {type(error).__name__}") from error
    _check_text(value)
    return value


def canonical(value: JsonValue) -> bytes:
    """Return the RFC 8785 encoding of `value`.

    Raises:
        StrictJsonError: RFC 8785 cannot represent it.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise StrictJsonError(f"no canonical encoding: {error}") from error


def _check_depth(data: bytes, max_depth: int) -> None:
    """Bound nesting before the recursive parser runs; brackets in strings do not count."""
    depth = 0
    for token in _STRUCTURE.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            if depth > max_depth:
                raise StrictJsonError(f"nested deeper than {max_depth}")
        elif first in b"]}":
            depth -= 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise StrictJsonError("an object has the same key twice")
    return result


def _refuse_constant(name: str) -> object:
    raise StrictJsonError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_NUMBER_CHARS or abs(int(digits)) > MAX_SAFE_INTEGER:
        raise StrictJsonError("an integer is outside the exactly representable range")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > _MAX_NUMBER_CHARS or not math.isfinite(value := float(digits)):
        raise StrictJsonError("a number is not finite, or has too many digits")
    return value


def _check_text(value: object) -> None:
    """Refuse lone surrogates: `\\ud800` parses, but has no UTF-8 encoding."""
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise StrictJsonError("a string holds a lone surrogate")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
