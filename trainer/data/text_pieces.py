"""A text file as pieces of bounded size, each cut where a tokenizer would cut anyway.

A piece ends after a line end between two characters that are no white space, or before
such a space; byte-level BPE, WordPiece, words and characters then give the same tokens
for the pieces as for the whole. Only where 64 KiB hold neither is a piece cut between
any two characters.

It refuses an empty file, NUL bytes and bytes that are not UTF-8, with the line.
Invariant: the pieces, joined, are the file without a byte order mark at its front.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.errors import DataError

PIECE_BYTES = 64 * 1024
_COUNT_BYTES = 1 << 20
_NEAR_BYTES = 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_AFTER_LINE = re.compile(rb"[^\s]\n(?=[^\s])")
_BEFORE_SPACE = re.compile(rb"[^\s](?= [^\s])")


def read_pieces(path: Path, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) for the pieces of a file or of a part of it.

    Args:
        path: the file.
        begin: first byte, at a character's begin.
        end: the byte after the last, likewise; None is the end of the file.

    Raises:
        DataError: the file is empty, binary, badly encoded or unreadable.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size == 0:
                raise DataError(f"{path}: the file is empty")
            line = 1 + _line_ends(file, begin)
            file.seek(begin)
            left = (size if end is None else end) - begin
            rest = file.read(min(len(_BYTE_ORDER_MARK), left)) if begin == 0 else b""
            left -= len(rest)
            rest = rest.removeprefix(_BYTE_ORDER_MARK)
            while left or rest:
                block = rest + file.read(min(PIECE_BYTES, left))
                left -= min(PIECE_BYTES, left)
                cut = _cut(block) if left else len(block)
                yield line, _decode(path, line, block[:cut])
                line += block.count(b"\n", 0, cut)
                rest = block[cut:]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _line_ends(file: BinaryIO, end: int) -> int:
    count = 0
    while end > 0:
        chunk = file.read(min(_COUNT_BYTES, end))
        if not chunk:
            break
        count += chunk.count(b"\n")
        end -= len(chunk)
    return count


def _cut(block: bytes) -> int:
    """Return where to cut a block: in its second half, or at its last whole character."""
    for pattern in (_AFTER_LINE, _BEFORE_SPACE):
        # Most often there is one near the end.
        for begin in (max(len(block) - _NEAR_BYTES, len(block) // 2), len(block) // 2):
            found = deque(pattern.finditer(block, begin), maxlen=1)
            if found:
                return found[0].end()
    return _character_begin(block, len(block) - 1)


def _character_begin(block: bytes, position: int) -> int:
    """Return the begin of the UTF-8 character that a position lies in."""
    # No character has more than four bytes; what has is reported when it is decoded.
    for begin in range(position, max(position - 4, 0), -1):
        if block[begin] & 0xC0 != 0x80:
            return begin
    return position


def _decode(path: Path, line: int, block: bytes) -> str:
    nul = block.find(b"\0")
    if nul >= 0:
        raise DataError(
            f"{path}:{line + block.count(bytes([10]), 0, nul)}: a NUL byte; this is a binary "
            "file, or text in UTF-16: convert it to UTF-8"
        )
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + block.count(b"\n", 0, error.start)
        byte = error.start - block.rfind(b"\n", 0, error.start)
        # Without the cause: its arguments hold the bytes of the text.
        raise DataError(
            f"{path}:{at}: byte {byte} of the line is not UTF-8; convert the file to UTF-8"
        ) from None


def cut_position(path: Path, position: int) -> int:
    """Return the last character begin at or before a byte position.

    Raises:
        DataError: the file cannot be read.
    """
    begin = max(0, position - 3)
    try:
        with path.open("rb") as file:
            file.seek(begin)
            nearby = file.read(position - begin + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    within = position - begin
    while 0 < within < len(nearby) and nearby[within] & 0xC0 == 0x80:
        within -= 1
    return begin + within
