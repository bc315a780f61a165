"""LSTM and GRU networks: language models and classifiers.

    features   input table and dropout
    task       a stack of recurrent layers with dropout between them
    output     linear (tied to the table if asked), or an adaptive softmax

Dropout stands where Zaremba et al. 2014 put it: never on the recurrent path. Tables
start from U(-0.1, 0.1) as there, layers as torch has them, with a bias of 1 on the LSTM's
forget gates (Jozefowicz et al. 2015).

A classifier reads the last real token's state, or the mean over real tokens; padding is
on the right, where it cannot change the states before it. With documents in the batch,
every document starts from the zero state, as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trainer.models import storage
from trainer.models.generation import generating, next_token
from trainer.models.network import Network, NetworkSize, training_flops
from trainer.models.pooling import last_token, mean_of_tokens
from trainer.objectives.adaptive import AdaptiveOutput

if TYPE_CHECKING:
    from trainer.data.batch import Batch

MODEL_TYPE = "casemate-recurrent"
_TABLE_RANGE = 0.1
Cell = Literal["lstm", "gru"]
Pooling = Literal["none", "last", "mean"]
State = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class RecurrentConfig:
    """What config.json of a recurrent network says.

    Attributes:
        vocab_size: entries of the table.
        hidden_size: width of the table and of every layer.
        num_hidden_layers: recurrent layers.
        cell: "lstm" or "gru".
        dropout: probability.
        tie_word_embeddings: the output layer uses the table.
        max_position_embeddings: tokens of a sequence in training.
        pad_token_id: of padding, or None.
        pooling: "none" for a language model, "last" or "mean" for a classifier.
        cutoffs: of an adaptive softmax; None has a linear output layer.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    cell: str
    dropout: float
    tie_word_embeddings: bool
    max_position_embeddings: int
    pad_token_id: int | None
    pooling: str
    cutoffs: tuple[int, ...] | None


class Recurrent(Network):
    """A stack of LSTM or GRU layers between a table and an output layer."""

    family: ClassVar[str] = "recurrent"

    def __init__(self, config: RecurrentConfig, labels: tuple[str, ...] = ()) -> None:
        """Make new weights from torch's global generator."""
        super().__init__()
        self.config = config
        self.labels = labels
        self.context = config.max_position_embeddings
        self.vocabulary_size = config.vocab_size
        self.pad = config.pad_token_id
        self.level = "token" if config.pooling == "none" else "text"
        width = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        kind = nn.LSTM if config.cell == "lstm" else nn.GRU
        self.layers = nn.ModuleList(
            kind(width, width, batch_first=True) for _ in range(config.num_hidden_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.added = nn.Sequential()
        self.head = self._new_head()
        self.initialize([self.embedding, self.layers])
        if config.tie_word_embeddings and isinstance(self.head, nn.Linear):
            self.head.weight = self.embedding.weight

    def _new_head(self) -> nn.Linear | AdaptiveOutput:
        width = self.config.hidden_size
        if self.config.cutoffs is not None:
            return AdaptiveOutput(width, self.vocabulary_size, self.config.cutoffs)
        head = nn.Linear(width, len(self.labels) or self.vocabulary_size)
        self.initialize([head])
        return head

    @property
    def features(self) -> nn.Module:
        """The table."""
        return self.embedding

    @property
    def task(self) -> nn.Module:
        """The recurrent layers and added dense layers."""
        return nn.ModuleList([*self.layers, *self.added])

    def represent(self, batch: Batch) -> Tensor:
        """Compute states of tokens [B, T, D], or one vector of each text [B, D]."""
        ids = batch["input_ids"]
        documents = batch.get("document_ids")
        if documents is None:
            states, _ = self._run(ids, None)
        else:
            states = self._run_apart(ids, documents)
        if self.level == "token":
            return states
        real = batch.get("attention_mask")
        if real is None and self.pad is not None:
            real = ids != self.pad
        pool = mean_of_tokens if self.config.pooling == "mean" else last_token
        return pool(states, real)

    def _run(self, ids: Tensor, before: list[State] | None) -> tuple[Tensor, list[State]]:
        """Run all layers from a state; return the states of tokens and the new state."""
        hidden = self.dropout(self.embedding(ids))
        after: list[State] = []
        for index, layer in enumerate(self.layers):
            hidden, state = layer(hidden, None if before is None else before[index])
            hidden = self.dropout(hidden)
            after.append(state)
        return hidden, after

    def _run_apart(self, ids: Tensor, documents: Tensor) -> Tensor:
        """Run all layers over each document from the zero state; return [B, T, D].

        The tokens go in as torch packs sequences of different lengths, so that no
        padding is computed: first tokens of all documents, longest first, then second ones.
        """
        rows, length = ids.shape
        begins = torch.ones_like(ids, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        number = begins.flatten().cumsum(0) - 1
        lengths = torch.bincount(number)
        within = (
            torch.arange(rows * length, device=ids.device) - (lengths.cumsum(0) - lengths)[number]
        )
        rank = torch.empty_like(lengths)
        rank[lengths.argsort(descending=True, stable=True)] = torch.arange(
            lengths.numel(), device=ids.device
        )
        order = (within * lengths.numel() + rank[number]).argsort()
        sizes = torch.bincount(within).cpu()
        hidden = self.dropout(self.embedding(ids)).flatten(0, 1)[order]
        for layer in self.layers:
            packed, _ = layer(PackedSequence(hidden, sizes))
            hidden = self.dropout(packed.data)
        states: Tensor = hidden[order.argsort()].view(rows, length, -1)
        return states

    def generate(
        self,
        ids: Tensor,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """Sample tokens, carrying the state; see `Network.generate`."""
        if self.level != "token":
            return super().generate(ids, max_tokens, temperature, generator, stop)
        written, feed, state = ids[:, :0], ids, None
        with generating(self):
            for _ in range(max_tokens):
                hidden, state = self._run(feed, state)
                logits = self.logits(self.added(hidden[:, -1]))
                feed = next_token(logits, temperature, generator)
                if stop is not None and int(feed) == stop:
                    break
                written = torch.cat([written, feed], dim=1)
        return written

    def blocks(self) -> list[nn.Module]:
        """Return the recurrent layers."""
        return list(self.layers)

    def size(self) -> NetworkSize:
        """Count weights and operations; an adaptive softmax counts as if all was used."""
        total = sum(p.numel() for p in self.parameters())
        embedding = 0 if self.tied else self.embedding.weight.numel()
        return NetworkSize(
            parameters=total,
            trainable=sum(p.numel() for p in self.parameters() if p.requires_grad),
            embedding=embedding,
            layers=len(self.layers),
            width=self.config.hidden_size,
            context=self.context,
            flops_per_token=training_flops(total - embedding, 0, 0, 0),
        )

    def initialize(self, modules: list[nn.Module]) -> None:
        """Give modules new weights."""
        for module in modules:
            module.apply(_initialize)

    def replace_head(self) -> None:
        """Put a new output layer of the same size in place; it is tied no more."""
        self.head = self._new_head()

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors."""
        tensors = storage.complete_state(self, state)
        storage.write_weights(folder, tensors)
        values = asdict(self.config) | {"tie_word_embeddings": self.tied}
        storage.write_own_config(
            folder, MODEL_TYPE, values, labels=self.labels, added=len(self.added)
        )


@torch.no_grad()
def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.uniform_(module.weight, -_TABLE_RANGE, _TABLE_RANGE)
    elif isinstance(module, nn.Linear):
        nn.init.uniform_(module.weight, -_TABLE_RANGE, _TABLE_RANGE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LSTM | nn.GRU):
        module.reset_parameters()
        if isinstance(module, nn.LSTM):
            width = module.hidden_size
            # Gates lie in the order input, forget, cell, output; of the two biases one is enough.
            for name, bias in module.named_parameters():
                if name.startswith("bias_ih"):
                    bias[width : 2 * width].fill_(1.0)
