"""Open a tokenizer.json of a stranger's, and take what its library does for what it is.

The tokenizers library raises plain Exceptions, and where it panics a BaseException that no
`except Exception` sees. Either means here that the file is not usable, and is told without
the library's words where those might quote a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compiler.errors import SourceError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What pyo3 calls a panic of Rust; it cannot be imported.
_PANIC: Final = "PanicException"
# Letters, digits and marks of some scripts, and a character that is in no vocabulary.
_SAMPLE: Final = "A text, with 12 words: naïve привет 你好 🙂 \U000e0fff."
_MAX_REASON_CHARS: Final = 300


def open_tokenizer(data: bytes, path: Path) -> Tokenizer:
    """Return the tokenizer in the content of a file, after it cut a first text.

    Raises:
        SourceError: it cannot be read, or has no token for what it does not know.
    """
    from tokenizers import Tokenizer

    with refused(path, "is not a tokenizer that can be read", told=True):
        tokenizer = Tokenizer.from_str(data.decode())
    with refused(path, "fails on a text with characters that it does not know", told=True):
        tokenizer.encode(_SAMPLE)
    return tokenizer


@contextmanager
def refused(path: Path, problem: str, *, told: bool = False) -> Iterator[None]:
    """Make what the tokenizers library raises within the block a SourceError.

    Args:
        path: the file to name.
        problem: what to say of it.
        told: whether to add the library's own words; only where no text of a user's is cut.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        reason = f": {str(error)[:_MAX_REASON_CHARS]}" if told else ""
        raise SourceError(f"{path}: {problem}{reason}") from error
