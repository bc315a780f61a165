"""Small corpora and data sets for the tests of the data room."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trainer.data.batch import Batch, Item
from trainer.data.shard_writer import ShardWriter
from trainer.data.shards import ShardSet

_WORDS = [
    "anchor",
    "barley",
    "candle",
    "dapple",
    "ember",
    "falcon",
    "garnet",
    "hollow",
    "island",
    "jasper",
    "kettle",
    "lantern",
    "meadow",
    "nickel",
    "oyster",
    "pebble",
    "quarry",
    "ribbon",
    "saddle",
    "timber",
    "umbrella",
    "velvet",
    "willow",
    "yonder",
]


def prose(words: int, seed: int = 0) -> str:
    """Return lines of made-up sentences, the same for a seed."""
    chosen = random.Random(seed)
    lines = []
    while words > 0:
        count = chosen.randint(4, 12)
        lines.append(" ".join(chosen.choice(_WORDS) for _ in range(count)).capitalize() + ".")
        words -= count
    return "\n".join(lines) + "\n"


def write_set(
    folder: Path,
    documents: Sequence[Sequence[int]],
    *,
    vocabulary_size: int = 100,
    shard_tokens: int = 8,
) -> ShardSet:
    """Write documents of tokens as a shard set, and open it."""
    with ShardWriter(
        folder,
        vocabulary_size=vocabulary_size,
        tokenizer_digest="ab" * 32,
        shard_tokens=shard_tokens,
    ) as writer:
        for document in documents:
            writer.begin_document()
            writer.append(np.array(document, dtype=np.int64), len(document))
        writer.finish([])
    return ShardSet.open(folder)


class Numbers:
    """A data set whose item is its own epoch and index."""

    fingerprint = "00" * 32

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def item(self, epoch: int, index: int) -> Item:
        return {"input_ids": np.array([epoch, index])}

    def where(self, epoch: int, index: int) -> str:
        return f"number {index} of epoch {epoch}"

    def collate(self, items: Sequence[Item]) -> Batch:
        return {"input_ids": torch.from_numpy(np.stack([item["input_ids"] for item in items]))}


class Ragged(Numbers):
    """Numbers that say they are as long as a hash of their index."""

    def length(self, index: int) -> int:
        return index * 7919 % 31
