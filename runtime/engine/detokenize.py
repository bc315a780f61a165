"""Token bytes to text, as they come, without ever splitting a character.

Tokens are pieces of UTF-8: an emoji can take four of them. Bytes of an unfinished
character are held until it is finished or can no longer become one; only then does
U+FFFD stand for them, once per maximal ill-formed part (Unicode 17, table 3-8). However
the bytes are cut into pieces, the text is the one that decoding them at once gives.
"""

from __future__ import annotations

import codecs

_UTF8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Incremental UTF-8 decoder of one answer."""

    def __init__(self) -> None:
        self._decoder = _UTF8(errors="replace")

    def push(self, piece: bytes) -> str:
        """The characters that `piece` completes."""
        return self._decoder.decode(piece)

    @property
    def holds_bytes(self) -> bool:
        """Whether bytes of an unfinished character are held."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """U+FFFD for what was left unfinished, if anything was."""
        return self._decoder.decode(b"", final=True)
