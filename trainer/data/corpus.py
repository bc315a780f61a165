"""A corpus that can be gone over again, and its way into a shard set.

Documents are streamed, tokenized in batches on all cores, and written as they come:
memory does not grow with the corpus. Around every document go the tokenizer's begin
token, if it is another than the end token, and its end token.

It refuses a part of a corpus that has no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.files import DataFile, find_files
from trainer.data.shard_writer import ShardWriter
from trainer.data.sources import WHOLE, Document, Part, documents_of
from trainer.data.tokenization import Tokenizer
from trainer.errors import DataError
from trainer.recipe.schema import DataOptions

# Text that is tokenized at one time: enough for all cores, little memory.
_BATCH_CHARACTERS = 1 << 20
_BATCH_DOCUMENTS = 4096


@dataclass(frozen=True)
class Corpus:
    """The documents of some files, or a part of them; iterating gives the texts.

    Attributes:
        files: where they are from.
        options: format and fields.
        part: which part of them.
        role: "train" or "validation".
    """

    files: list[DataFile]
    options: DataOptions
    part: Part
    role: str

    def documents(self) -> Iterator[Document]:
        """Yield the documents, long ones in pieces."""
        return documents_of(self.files, self.options, self.part)

    def __iter__(self) -> Iterator[str]:
        return (document.text for document in self.documents())

    def sample(self, characters: int) -> list[str]:
        """Return the first texts, about so many characters."""
        texts: list[str] = []
        for text in self:
            texts.append(text)
            characters -= len(text)
            if characters <= 0:
                break
        return texts


def find_corpora(options: DataOptions) -> tuple[Corpus, Corpus | None]:
    """Return what to train on and what to validate on, if anything.

    Raises:
        DataError: a path is not there or holds no data file.
    """
    files = find_files(options.train, options.format)
    share = options.validation_fraction
    if options.validation:
        held_out = find_files(options.validation, options.format)
        validation = Corpus(held_out, options, WHOLE, "validation")
        return Corpus(files, options, WHOLE, "train"), validation
    if share == 0:
        return Corpus(files, options, WHOLE, "train"), None
    validation = Corpus(files, options, Part(share, held_out=True), "validation")
    return Corpus(files, options, Part(share), "train"), validation


def write_shards(
    corpus: Corpus, tokenizer: Tokenizer, folder: Path, sources: Sequence[dict[str, Any]]
) -> None:
    """Tokenize a corpus into a new shard set.

    Args:
        corpus: what to tokenize.
        tokenizer: with what.
        folder: of the shard set; it is made.
        sources: what the manifest records of the files.

    Raises:
        DataError: a file cannot be used, or there is no text.
    """
    special = tokenizer.special
    none = np.empty(0, dtype=np.int64)
    end = none if special.end is None else np.array([special.end])
    # A token that both ends and begins stands once between two documents.
    begin = none if special.begin in (None, special.end) else np.array([special.begin])
    found = False
    with ShardWriter(
        folder,
        vocabulary_size=tokenizer.vocabulary_size,
        tokenizer_digest=tokenizer.digest,
        shard_tokens=corpus.options.shard_tokens,
    ) as writer:
        for batch in _batches(corpus.documents()):
            encoded = tokenizer.encode_batch([document.text for document in batch])
            for document, ids in zip(batch, encoded, strict=True):
                if document.begins:
                    if found:
                        writer.append(end, 0)
                    found = True
                    writer.begin_document()
                    writer.append(begin, 0)
                writer.append(ids, len(document.text.encode()))
        if not found:
            raise DataError(_without_text(corpus))
        writer.append(end, 0)
        writer.finish(sources)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _without_text(corpus: Corpus) -> str:
    first = corpus.files[0].path
    named = f"{first} and {len(corpus.files) - 1} more files" if len(corpus.files) > 1 else first
    if corpus.part.fraction == 0:
        return f"{named}: there is no text in the {corpus.role} corpus"
    return (
        f"{named}: holding out {corpus.part.fraction:g} of so small a corpus leaves no text for "
        f"{corpus.role}; name files in data.validation or change data.validation_fraction"
    )
