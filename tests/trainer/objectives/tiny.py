"""A network small enough to reason about: a table, a dense layer, and an output layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from trainer.data.batch import Batch
from trainer.models.network import Network, NetworkSize


class Tiny(Network):
    """`level` "token" keeps a state a token; "text" takes the mean over a text."""

    family = "tiny"

    def __init__(
        self, vocabulary: int, width: int, head: nn.Module | None, *, text: bool = False
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = head
        self.added = nn.Sequential()
        self.level = "text" if text else "token"
        self.vocabulary_size = vocabulary

    def tie(self) -> Tiny:
        """Use the table as the output matrix."""
        assert isinstance(self.head, nn.Linear)
        self.head.weight = self.table.weight
        return self

    @property
    def features(self) -> nn.Module:
        return self.table

    @property
    def task(self) -> nn.Module:
        return self.dense

    def represent(self, batch: Batch) -> Tensor:
        states: Tensor = self.norm(self.dense(self.table(batch["input_ids"])).tanh())
        return states.mean(dim=1) if self.level == "text" else states

    def blocks(self) -> list[nn.Module]:
        return [self.dense]

    def size(self) -> NetworkSize:
        raise NotImplementedError

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        raise NotImplementedError

    def initialize(self, modules: list[nn.Module]) -> None:
        raise NotImplementedError

    def replace_head(self) -> None:
        raise NotImplementedError
