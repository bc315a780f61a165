"""Run the pre-parsers on files that are named by path, for errors that name the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from compiler.errors import SourceError
from security.errors import UnsafeModelError
from security.preparse import GgufSummary, OnnxSummary, check_gguf, check_onnx

Summary = TypeVar("Summary", GgufSummary, OnnxSummary)


def inspect_gguf(path: Path) -> GgufSummary:
    """Pre-parse a GGUF file.

    Raises:
        SourceError: it cannot be read.
        UnsafeModelError: it is refused; the message names the file.
    """
    return _inspect(path, check_gguf, "GGUF")


def inspect_onnx(path: Path) -> OnnxSummary:
    """Pre-parse an ONNX file; raises as `inspect_gguf`."""
    return _inspect(path, check_onnx, "ONNX")


def _inspect(path: Path, check: Callable[[int, int], Summary], kind: str) -> Summary:
    try:
        with path.open("rb") as file:
            return check(file.fileno(), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    except UnsafeModelError as error:
        message = f"{path}: is no sound {kind} file, or is cut short or damaged: {error}"
        raise UnsafeModelError(error.reason, message) from error
