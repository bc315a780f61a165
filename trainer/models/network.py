"""What every network is to the rest of the trainer: three named parts and two calls.

    features   token ids -> hidden states (embeddings and layers of a transformer)
    task       what turns them to the task (a pooler, a decoder, added dense layers)
    output     the last linear map, onto a vocabulary or onto labels

Objectives call `hidden` and use the output layer themselves (so that the full matrix
of logits need not exist); everybody else calls the network for its logits. Nobody
outside this package sees the class that is wrapped.

Invariants:
    - Every parameter belongs to exactly one part (`part_parameters`). A matrix shared
      by two parts belongs to the earlier: a tied output layer is part of `features`.
    - `save` writes a directory that `load_network` reads back bit for bit. Where stock
      transformers classes compute the same thing, they read it too; where they do not,
      the directory carries a `model_type` of its own, so that they refuse it.
    - Nothing here reads a batch's labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from trainer.errors import RecipeError

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.models.weights import Origin

PARTS = ("features", "task", "output")
Level = Literal["token", "text"]


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """How large a network is and what a token costs.

    Attributes:
        parameters: all weights, shared ones once.
        trainable: those that are not frozen.
        embedding: weights of input tables, which are looked up and not multiplied
            with; a tied table counts as the output layer and not here.
        layers: transformer or recurrent layers (0 for a convolution).
        width: of the hidden states.
        context: tokens of one sequence that `flops_per_token` assumes.
        flops_per_token: of training, forward and backward: 6 N + 12 L D T with N all
            weights but `embedding` (Chowdhery et al. 2022, PaLM, appendix B; there
            12 L H Q T with H heads of width Q). The T term is for attention only. What
            activation checkpointing computes twice does not count, nor what is saved
            by causal masks or frozen weights.
    """

    parameters: int
    trainable: int
    embedding: int
    layers: int
    width: int
    context: int
    flops_per_token: float


class DenseLayer(nn.Module):
    """One dense layer that finetuning adds to a task layer: x + GELU(W x + b).

    The residual path leaves what the pretrained parts computed nearly as it was at
    the start, so that an output layer that is kept goes on working.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return hidden + nn.functional.gelu(self.dense(hidden))


class Network(nn.Module, ABC):
    """A network in three parts.

    Attributes:
        family: "decoder", "encoder", "seq2seq", "recurrent" or "convolution".
        level: "token" if `hidden` has a state for each token, "text" if one for each text.
        vocabulary_size: entries of the input table.
        context: tokens that a sequence may have, or that training uses.
        pad: id of the padding token, or None.
        labels: names of the classes in order; empty for language models and embeddings.
        head: the output layer; None for sentence embeddings.
        added: dense layers that finetuning added after the task layer; often empty.
        origin: digests of what it was loaded from, as they were then; None for a new one.
    """

    family: ClassVar[str]
    level: Level
    vocabulary_size: int
    context: int
    pad: int | None
    labels: tuple[str, ...]
    head: nn.Module | None
    added: nn.Sequential
    origin: Origin | None = None

    # -- the three parts -----------------------------------------------------------

    @property
    @abstractmethod
    def features(self) -> nn.Module:
        """Token ids to hidden states; holds the input table."""

    @property
    @abstractmethod
    def task(self) -> nn.Module | None:
        """Between features and output; None where a network has nothing there."""

    @property
    def output(self) -> nn.Module | None:
        """The last map: nn.Linear, or an adaptive softmax; None for embeddings."""
        return self.head

    def part(self, name: str) -> nn.Module | None:
        """Return a part by its name.

        Raises:
            RecipeError: there is no part of this name.
        """
        if name not in PARTS:
            raise RecipeError(f"there is no part {name!r}; parts are {', '.join(PARTS)}")
        return {"features": self.features, "task": self.task, "output": self.output}[name]

    def part_parameters(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of a part; each belongs to the first part that has it."""
        taken: set[int] = set()
        for each in PARTS:
            module = self.part(each)
            own = [] if module is None else [p for p in module.parameters() if id(p) not in taken]
            if each == name:
                return own
            taken.update(id(p) for p in own)
        raise RecipeError(f"there is no part {name!r}; parts are {', '.join(PARTS)}")

    # -- what they compute ---------------------------------------------------------

    @abstractmethod
    def represent(self, batch: Batch) -> Tensor:
        """Compute features and task layer, without the added dense layers."""

    def hidden(self, batch: Batch) -> Tensor:
        """Compute what the output layer takes: features and task layer.

        Args:
            batch: `input_ids` i64[B, T], and where they apply `attention_mask` i64[B, T],
                `document_ids` and `position_ids` i64[B, T], `decoder_input_ids` i64[B, U].

        Returns:
            [B, T, D] ([B, U, D] for an encoder-decoder) where `level` is "token",
            [B, D] where it is "text"; float32, or the type of autocast.
        """
        states: Tensor = self.added(self.represent(batch))
        return states

    def forward(self, batch: Batch) -> Tensor:
        """Compute logits: [B, T, V] or [B, T, C] for tokens, [B, C] for texts.

        An adaptive softmax gives log-probabilities, which are logits as well; a
        sentence embedding has no output layer and gives `hidden`.
        """
        hidden = self.hidden(batch)
        return hidden if self.head is None else self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the output layer: [..., D] -> [..., V] or [..., C]."""
        if self.head is None:
            raise RecipeError(f"this {self.family} makes embeddings and has no output layer")
        scores: Tensor = self.head(hidden)
        return scores

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the output layer, [V, D] or [C, D].

        Raises:
            RecipeError: there is no output layer, or it is no single matrix.
        """
        return self._linear().weight

    @property
    def output_bias(self) -> Tensor | None:
        """The bias of the output layer, [V] or [C], or None.

        Raises:
            RecipeError: there is no output layer, or it is no single matrix.
        """
        return self._linear().bias

    def _linear(self) -> nn.Linear:
        if not isinstance(self.head, nn.Linear):
            kind = "no layer" if self.head is None else type(self.head).__name__
            raise RecipeError(f"the output of this {self.family} is {kind}, not one matrix")
        return self.head

    @property
    def tied(self) -> bool:
        """Whether the output layer shares a matrix with the input table."""
        if self.head is None:
            return False
        inputs = {id(p) for p in self.features.parameters()}
        return any(id(p) in inputs for p in self.head.parameters())

    def generate(
        self,
        ids: Tensor,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """Sample tokens one after another.

        Args:
            ids: i64[1, T] prompt, T at least 1 (the source text of an encoder-decoder).
            max_tokens: tokens to sample.
            temperature: divides the logits; 0 takes the likeliest token.
            generator: on the network's device; the global one if None.
            stop: a token that ends the text early; it is not returned.

        Returns:
            i64[1, N], the new tokens only, N at most `max_tokens`.

        Raises:
            RecipeError: this network is no language model.
        """
        del ids, max_tokens, temperature, generator, stop
        raise RecipeError(f"this {self.family} is no language model: it cannot generate text")

    # -- what runs it --------------------------------------------------------------

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The repeated layers: units of sharding and of activation checkpointing.

        They are disjoint, hold neither the input table nor the output layer, and may be
        replaced in their parents by wrappers that keep their names in the state.
        """

    @abstractmethod
    def size(self) -> NetworkSize:
        """Count weights and operations."""

    # -- what finetuning changes -----------------------------------------------------

    @abstractmethod
    def initialize(self, modules: list[nn.Module]) -> None:
        """Give modules of this network new weights, from torch's global generator."""

    @abstractmethod
    def replace_head(self) -> None:
        """Put a new output layer in place; it is tied no more.

        It has a row for each of `labels`, or, without any, as many as the old one.

        Raises:
            RecipeError: there is no output layer.
        """

    # -- what is kept --------------------------------------------------------------

    @abstractmethod
    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors (and pooling files where they apply).

        Never a tokenizer or training.json. `folder` must exist; files in it are
        overwritten, so that atomicity is the caller's (write beside, then rename).

        Args:
            folder: where to write.
            state: values under the names of `state_dict()`, for weights that are sharded
                over ranks; None takes the network's own. A shared matrix is written once.

        Raises:
            CheckpointError: `state` lacks a weight or has a foreign one.
        """


def training_flops(multiplied: int, layers: int, attention_width: int, context: int) -> float:
    """Return 6 N + 12 L D T floating point operations for a token (PaLM, appendix B)."""
    return 6.0 * multiplied + 12.0 * layers * attention_width * context


def config_value(config: Any, *names: str, default: int | None = None) -> int:
    """Return the first of several names that a transformers configuration has.

    Raises:
        RecipeError: it has none of them.
    """
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    if default is None:
        raise RecipeError(
            f"the configuration of a {getattr(config, 'model_type', '?')!r} network says none of "
            f"{', '.join(names)}"
        )
    return default
