"""What a recipe will need of a device's memory, before anything is allocated.

The network is built on torch's meta device, which has shapes and no memory; weights,
gradients and optimizer state are then exact. Activations are estimated from shapes: for
each token and layer a network keeps a multiple of its width and of its inner width for
the backward pass. The multiples below were counted with `saved_tensors_hooks` on these
very classes, in float32; the tests hold the estimate to within a factor of two of what a
process takes. bfloat16 takes two thirds of that, since norms and rotations stay float32.

The estimate leaves out what is there without any model: the interpreter and its
libraries (about 0.5 GB), and a GPU's context.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from trainer.data.special import SpecialTokens
from trainer.errors import MemoryEstimateError
from trainer.models.available import available_memory
from trainer.models.build import build_network
from trainer.models.convolution import Convolution
from trainer.models.example_memory import example_memory
from trainer.models.load import skeleton
from trainer.models.network import Network, config_value
from trainer.models.parts import apply_parts
from trainer.models.transformer import TransformerNetwork
from trainer.optimization.optimizers import block_matrices
from trainer.recipe.schema import Recipe

__all__ = [
    "MemoryEstimate",
    "available_memory",
    "check_memory",
    "estimate_memory",
    "shapes",
]
_FLOAT = 4  # bytes
_BFLOAT_SHARE = 2 / 3
_DROPOUT_WIDTHS = 2  # of a layer's width, for its two residual dropouts
_TABLE_WIDTHS = 4  # embeddings, their norm, the last norm
# (widths, inner widths, scores of a head and key) that a layer keeps of a token, in numbers.
_KEPT = {
    "decoder": (10.0, 4.0, 0.0),
    "encoder": (8.0, 2.0, 0.0),
    # Half of an encoder and a decoder layer together; T5's attention keeps its scores.
    "seq2seq": (13.5, 7.0, 1.5),
    "recurrent": (17.0, 0.0, 0.0),
}
# Attention dropout keeps scores, chances and the mask on CPUs, where no kernel fuses it.
_DROPPED_SCORES = 3.0
_LOGITS_COPIES = 3  # logits, log-probabilities, gradient
# A meta network needs ids of special tokens, whichever they are.
_ANY = SpecialTokens(pad=0, unknown=1, begin=2, end=3, mask=4, separator=3)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one rank needs.

    Attributes:
        parameters: weights of the whole network, as a count.
        weights: float32 weights, and their bfloat16 copies where they are used.
        gradients: float32, of the weights that are trained.
        optimizer: what the optimizer keeps of each weight.
        activations: what one forward pass keeps for its backward pass, and the logits.
        examples: what gradients of single examples need besides, in private training.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    examples: int = 0

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        moved = self.weights + self.gradients + self.optimizer
        return moved + self.activations + self.examples


def estimate_memory(recipe: Recipe, vocabulary_size: int, *, world: int = 1) -> MemoryEstimate:
    """Estimate what one rank of a run needs.

    Args:
        recipe: everything that decides it.
        vocabulary_size: of the tokenizer.
        world: ranks that share the batch, and under FSDP the weights.

    Raises:
        RecipeError: a network that cannot be built.
        CheckpointError: a directory to start from that cannot be read.
    """
    with torch.device("meta"):
        network = shapes(recipe, vocabulary_size)
    parameters = sum(p.numel() for p in network.parameters())
    trainable = [p for p in network.parameters() if p.requires_grad]
    trained = sum(p.numel() for p in trainable)
    moved = sum(p.numel() for p in block_matrices(network.blocks()))
    state = {"adamw": 2 * trained, "muon": 2 * trained - moved, "sgd": trained}
    half = recipe.precision.dtype == "bfloat16"
    weights, gradients = _FLOAT * parameters, _FLOAT * trained
    optimizer = _FLOAT * state[recipe.optimizer.name]
    gathered = 0
    if recipe.distribution.strategy == "fsdp" and world > 1:
        weights, gradients, optimizer = (n // world for n in (weights, gradients, optimizer))
        gathered = _gathered(network) * (2 if half else _FLOAT)
    elif half:
        gathered = 2 * parameters
    activations = _activations(network, recipe, world)
    examples = 0
    if recipe.privacy.enabled:
        # Sums of clipped gradients are whole on every rank until they are added up.
        gradients = _FLOAT * trained
        rows, length = rows_of_pass(recipe, world), recipe.data.sequence_length
        examples = example_memory(network, rows, length)
    return MemoryEstimate(
        parameters=parameters,
        weights=weights + gathered,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        examples=examples,
    )


def check_memory(
    estimate: MemoryEstimate, device: torch.device, local_world: int = 1, available: int = 0
) -> None:
    """Refuse what does not fit.

    Args:
        estimate: of one rank.
        device: of this rank.
        local_world: ranks on this machine, which share its memory on CPUs.
        available: bytes for all of them; 0 asks the machine.

    Raises:
        MemoryEstimateError: with both figures and what would help.
    """
    there = available or available_memory(device)
    ranks = local_world if device.type == "cpu" else 1
    needed = estimate.total * ranks
    if needed <= there:
        return
    parts = ", ".join(
        f"{name} {_gib(getattr(estimate, name))}"
        for name in ("weights", "gradients", "optimizer", "activations", "examples")
        if name != "examples" or estimate.examples
    )
    shared = f" for {ranks} ranks of {_gib(estimate.total)}" if ranks > 1 else ""
    helps = "model.depth or model.width, or distribution.strategy = 'fsdp' over more ranks"
    if estimate.examples > estimate.total // 2:
        helps = "batch.micro_sequences, data.sequence_length, or parts.adapter = 'lora'"
    elif estimate.activations > estimate.total // 2:
        helps = (
            "batch.micro_sequences, data.sequence_length, or "
            "precision.activation_checkpointing = true"
        )
    raise MemoryEstimateError(
        f"this recipe needs about {_gib(needed)}{shared} and {_gib(there)} are free on "
        f"{device.type}: {parts}. What helps most: {helps}"
    )


def shapes(recipe: Recipe, vocabulary_size: int) -> Network:
    """Build a recipe's network, parts applied; on torch's meta device it takes no memory.

    Raises:
        RecipeError: a network that cannot be built.
        CheckpointError: a directory to start from that cannot be read.
    """
    labelled = recipe.objective.kind in ("classification", "tagging")
    labels = recipe.data.labels or (("a", "b") if labelled else ())
    context = recipe.data.sequence_length
    if recipe.model.source:
        network = skeleton(Path(recipe.model.source), recipe.objective, labels, recipe.model)
    else:
        network = build_network(
            recipe.model,
            recipe.objective,
            vocabulary_size=vocabulary_size,
            context=context,
            special=_ANY,
            labels=labels,
        )
    return apply_parts(network, recipe.parts)


def rows_of_pass(recipe: Recipe, world: int) -> int:
    """Return the most sequences of one forward pass on one rank."""
    return recipe.batch.micro_sequences or max(1, recipe.batch.sequences // world)


def _gathered(network: Network) -> int:
    """Return the weights that FSDP holds whole at one time: the root's and two blocks'."""
    blocks = [sum(p.numel() for p in block.parameters()) for block in network.blocks()]
    inside = sum(blocks)
    return sum(p.numel() for p in network.parameters()) - inside + 2 * max(blocks, default=0)


def _activations(network: Network, recipe: Recipe, world: int) -> int:
    """Return the bytes that one forward pass keeps, its largest block's gradient and logits."""
    rows = rows_of_pass(recipe, world)
    length = recipe.data.sequence_length
    tokens = rows * length
    share = _BFLOAT_SHARE if recipe.precision.dtype == "bfloat16" else 1.0
    size, layers = network.size(), max(1, len(network.blocks()))
    layer = _FLOAT * share * tokens * _kept_of_token(network, recipe, length)
    kept = layer * layers
    if recipe.precision.activation_checkpointing:
        kept = _FLOAT * tokens * size.width * layers + layer
    tables = _FLOAT * tokens * size.width * _TABLE_WIDTHS
    mask = rows * length * length if recipe.data.boundaries and network.level == "token" else 0
    # Going back, a layer's gradients are as large as a part of what it kept.
    return int(kept + layer / 2 + tables + mask + _logits(network, recipe, tokens))


def _kept_of_token(network: Network, recipe: Recipe, length: int) -> float:
    """Return the numbers that one layer keeps of one token."""
    if isinstance(network, Convolution):
        return 3.0 * network.config.embedding_size + 3.0 * network.size().width
    widths, inners, scores = _KEPT[network.family]
    width, inner, heads, dropout = float(network.size().width), 0, 0, recipe.model.new_dropout
    if isinstance(network, TransformerNetwork):
        config = network.core.config
        inner = config_value(config, "intermediate_size", "d_ff", "n_inner", default=int(4 * width))
        heads = config_value(config, "num_attention_heads", "num_heads")
        if recipe.model.dropout < 0:
            dropout = getattr(config, "attention_probs_dropout_prob", 0.0)
    if dropout and network.family != "decoder":
        widths += _DROPOUT_WIDTHS
    if dropout and network.family in ("decoder", "encoder"):
        scores += _DROPPED_SCORES
    return widths * width + inners * inner + scores * heads * length


def _logits(network: Network, recipe: Recipe, tokens: int) -> int:
    """Return the bytes of the output layer's logits and of what is made from them."""
    head = network.output
    if not isinstance(head, nn.Linear) or network.level == "text":
        return _FLOAT * tokens * network.size().width
    together = tokens
    extra = 0
    if recipe.objective.softmax == "chunked" and not network.labels:
        together = min(tokens, recipe.objective.chunk_tokens)
        # Its gradient exists beside the one that backward adds it to.
        extra = head.weight.numel()
    return _FLOAT * (_LOGITS_COPIES * together * head.out_features + extra)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
