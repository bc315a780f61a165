"""What the compiler asks of a tokenizer.json; each question is a process with bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.child.job import run_child
from compiler.errors import ChildError, SourceError

_MODULE: Final = "compiler.tokenizer.process"
# A tokenizer cuts megabytes a second.
_SECONDS: Final = 300.0
# The library, the vocabulary unpacked (see `run_child` on the file's share) and the texts.
_MEMORY_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Frame:
    """What a tokenizer makes of the letter "a".

    Attributes:
        bare: its ids.
        framed: the same with what the tokenizer puts around a text.
    """

    bare: tuple[int, ...]
    framed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens, with what the tokenizer puts around it.

    Attributes:
        ids: their numbers.
        types: which of two texts each is of, 0 everywhere for one text.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer.json that has cut a first text.

    Attributes:
        path: the file.
        highest: the largest id of its vocabulary; -1 if that is empty.
        padding: the id that it fills up with; 0 if it says none.
        frame: see Frame.
    """

    path: Path
    highest: int
    padding: int
    frame: Frame

    def numbers(self, names: Sequence[str]) -> dict[str, int]:
        """Return the ids of those texts that are one token each."""
        return dict(self._ask("numbers", names=list(names))["numbers"])

    def spell(self, numbers: Sequence[int], length: int) -> list[str]:
        """Return texts strung together of tokens; ids without a token are left out.

        Args:
            numbers: ids from all over the vocabulary, in order.
            length: how many make a text. Once they are taken as neighbours, once far from
                each other.
        """
        answer = self._ask("spell", numbers=list(numbers), length=length)
        return [str(text) for text in answer["texts"]]

    def cut(self, texts: Sequence[str], *, literal: bool) -> list[list[int]]:
        """Return the ids of texts, whole, without what is put around them.

        Args:
            texts: to cut.
            literal: whether a special token's spelling is taken for letters.
        """
        return list(self._ask("cut", texts=list(texts), literal=literal)["ids"])

    def frame_texts(self, texts: Sequence[str], max_tokens: int) -> list[Tokens]:
        """Return the tokens of texts, cut at `max_tokens`, with what is put around them."""
        answer = self._ask("frame", texts=list(texts), max_tokens=max_tokens)
        pairs = zip(answer["ids"], answer["types"], strict=True)
        return [Tokens(tuple(ids), tuple(types)) for ids, types in pairs]

    def _ask(self, task: str, **request: Any) -> Mapping[str, Any]:
        return _ask(self.path, task, request)


def open_tokenizer(path: Path, rows: int = 0) -> TokenizerFile:
    """Return a tokenizer after it cut a first text.

    Args:
        path: the file.
        rows: of the model's embedding, or 0 when that is not known; a tokenizer with more
            tokens would send the model ids that it does not have.

    Raises:
        SourceError: it cannot be read, has no token for what it does not know, or takes more
            time or memory than a tokenizer needs, or has more tokens than `rows`.
    """
    answer = _ask(path, "open", {})
    if rows and answer["highest"] >= rows:
        raise SourceError(f"{path}: has tokens beyond the model's vocabulary of {rows}")
    frame = Frame(tuple(answer["bare"]), tuple(answer["framed"]))
    return TokenizerFile(path, int(answer["highest"]), int(answer["padding"]), frame)


def _ask(path: Path, task: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return run_child(
            _MODULE,
            {**request, "task": task, "path": str(path.absolute()), "shown": str(path)},
            seconds=_SECONDS,
            of=path,
            least_bytes=_MEMORY_BYTES,
        )
    except ChildError as error:
        raise SourceError(
            f"{path}: is not a tokenizer that can be used: {error}. A tokenizer needs little "
            "time and memory; see what its normalizer and its regular expressions do"
        ) from error
