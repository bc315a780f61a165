"""Convolutional text classifiers (Kim, "Convolutional neural networks for sentence
classification", 2014).

    features   input table, filters of several widths, ReLU, the largest value of each
               filter over the text
    task       only what finetuning adds
    output     dropout and a linear layer

Every window that touches a real token counts, and no other, so that a text's vector does
not depend on how far its batch is padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from trainer.models import storage
from trainer.models.network import Network, NetworkSize, training_flops

if TYPE_CHECKING:
    from trainer.data.batch import Batch

MODEL_TYPE = "casemate-convolution"
_TABLE_RANGE = 0.25  # of word vectors that no pretraining gave, as in the paper


@dataclass(frozen=True, slots=True)
class ConvolutionConfig:
    """What config.json of a convolutional classifier says.

    Attributes:
        vocab_size: entries of the table.
        embedding_size: width of the table.
        kernel_sizes: tokens that the filters of each kind see.
        filters: of each kind.
        dropout: probability, before the output layer.
        max_position_embeddings: tokens of a text in training.
        pad_token_id: of padding, or None.
    """

    vocab_size: int
    embedding_size: int
    kernel_sizes: tuple[int, ...]
    filters: int
    dropout: float
    max_position_embeddings: int
    pad_token_id: int | None


class TextConvolutions(nn.Module):
    """A table and filters: [B, T] token ids to [B, kinds * filters]."""

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.sizes = config.kernel_sizes
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.filters, size, padding=size - 1)
            for size in config.kernel_sizes
        )

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """Return the largest value of every filter; `real` is bool [B, T]."""
        vectors = (self.embedding(ids) * real[:, :, None]).transpose(1, 2)
        found = []
        for size, convolution in zip(self.sizes, self.convolutions, strict=True):
            values = torch.relu(convolution(vectors))
            # Output t sees the tokens t - size + 1 ... t; is one of them real?
            touched = nn.functional.pad(real.float(), (size - 1, size - 1)).unfold(1, size, 1)
            # Where none is, 0 is never above what ReLU gives elsewhere.
            found.append((values * touched.amax(-1)[:, None, :]).amax(-1))
        return torch.cat(found, dim=1)


class Convolution(Network):
    """A convolutional text classifier."""

    family: ClassVar[str] = "convolution"

    def __init__(self, config: ConvolutionConfig, labels: tuple[str, ...]) -> None:
        """Make new weights from torch's global generator."""
        super().__init__()
        self.config = config
        self.labels = labels
        self.level = "text"
        self.context = config.max_position_embeddings
        self.vocabulary_size = config.vocab_size
        self.pad = config.pad_token_id
        self.extractor = TextConvolutions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.added = nn.Sequential()
        self.head = nn.Linear(config.filters * len(config.kernel_sizes), len(labels))
        self.initialize([self.extractor, self.head])

    @property
    def features(self) -> nn.Module:
        """The table and the filters."""
        return self.extractor

    @property
    def task(self) -> nn.Module | None:
        """Added dense layers, if any."""
        return self.added if len(self.added) else None

    def represent(self, batch: Batch) -> Tensor:
        """Compute one vector of each text, [B, kinds * filters]."""
        ids = batch["input_ids"]
        real = batch.get("attention_mask")
        if real is None:
            real = torch.ones_like(ids) if self.pad is None else ids != self.pad
        vectors: Tensor = self.dropout(self.extractor(ids, real.bool()))
        return vectors

    def blocks(self) -> list[nn.Module]:
        """Return nothing: there is no repeated layer."""
        return []

    def size(self) -> NetworkSize:
        """Count weights and operations; the output layer is counted for every token."""
        total = sum(p.numel() for p in self.parameters())
        embedding = self.extractor.embedding.weight.numel()
        return NetworkSize(
            parameters=total,
            trainable=sum(p.numel() for p in self.parameters() if p.requires_grad),
            embedding=embedding,
            layers=0,
            width=self.config.filters * len(self.config.kernel_sizes),
            context=self.context,
            flops_per_token=training_flops(total - embedding, 0, 0, 0),
        )

    def initialize(self, modules: list[nn.Module]) -> None:
        """Give modules new weights."""
        for module in modules:
            module.apply(_initialize)

    def replace_head(self) -> None:
        """Put a new output layer of the same size in place."""
        self.head = nn.Linear(self.size().width, len(self.labels))
        self.initialize([self.head])

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors."""
        storage.write_weights(folder, storage.complete_state(self, state))
        storage.write_own_config(
            folder,
            MODEL_TYPE,
            asdict(self.config),
            labels=self.labels,
            added=len(self.added),
        )


@torch.no_grad()
def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.uniform_(module.weight, -_TABLE_RANGE, _TABLE_RANGE)
    elif isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
