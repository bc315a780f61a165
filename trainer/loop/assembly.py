"""Puts together what a run needs, out of a recipe.

    data -> memory check -> network -> objective -> ranks -> optimizer

What it refuses: a recipe that would not fit the memory, a batch that the ranks cannot
share. Invariant: what depends on the first rank's work (trained tokenizers, shards) is
made by it alone, and read by the others when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from trainer.data.assemble import DataBundle, build_data
from trainer.data.tokenization import Tokenizer
from trainer.distribution.environment import Ranks
from trainer.distribution.group import Group
from trainer.distribution.wrap import distribute
from trainer.errors import RecipeError
from trainer.loop.randomness import seed_weights
from trainer.loop.step import Step
from trainer.models.build import build_network
from trainer.models.label_texts import start_from_texts
from trainer.models.load import load_network
from trainer.models.memory import check_memory, estimate_memory
from trainer.models.network import Network, NetworkSize
from trainer.models.parts import apply_parts
from trainer.objectives.build import build_objective
from trainer.optimization.optimizers import Optimizers, build_optimizer
from trainer.recipe.schema import TEXT_OBJECTIVES, Recipe

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything that is trained, and with what.

    Attributes:
        data: training and validation sets, tokenizer, labels, sources.
        network: the network itself; its weights may be sharded inside `module`.
        module: the `Step` around it, distributed.
        optimizers: over the module's parameters.
        size: of the whole network, taken before it was distributed.
        micro_sequences: sequences of one forward pass.
    """

    data: DataBundle
    network: Network
    module: nn.Module
    optimizers: Optimizers
    size: NetworkSize
    micro_sequences: int


def prepare_data(recipe: Recipe, folder: Path, group: Group, progress: Progress) -> DataBundle:
    """Read, tokenize and open the data; the first rank fills the cache for all.

    Raises:
        DataError: see `trainer.data.assemble`.
    """
    base = Tokenizer.load(Path(recipe.model.source)) if recipe.model.source else None
    if not group.is_first:
        group.barrier()
        return build_data(recipe, folder, base, lambda _: None)
    data = build_data(recipe, folder, base, progress)
    group.barrier()
    return data


def make_network(recipe: Recipe, data: DataBundle) -> Network:
    """Build the recipe's network, or load the one that it starts from.

    Raises:
        RecipeError: the recipe asks for something the network cannot be.
        CheckpointError: the directory to start from cannot be read.
    """
    seed_weights(recipe.run.seed)
    if recipe.model.source:
        network = load_network(
            Path(recipe.model.source),
            recipe.objective,
            data.labels,
            recipe.model,
            context=recipe.data.sequence_length,
            vocabulary_size=data.tokenizer.vocabulary_size,
        )
    else:
        network = build_network(
            recipe.model,
            recipe.objective,
            vocabulary_size=data.tokenizer.vocabulary_size,
            context=recipe.data.sequence_length,
            special=data.tokenizer.special,
            labels=data.labels,
        )
    apply_parts(network, recipe.parts)
    if recipe.parts.label_texts:
        start_from_texts(
            network, data.tokenizer, recipe.parts.label_texts, recipe.parts.label_scale
        )
    return network


def micro_sequences(recipe: Recipe, world: int) -> int:
    """Return the sequences of one forward pass.

    Raises:
        RecipeError: the ranks cannot share the batch evenly.
    """
    batch = recipe.batch
    if batch.micro_sequences:
        return batch.micro_sequences
    if batch.sequences % world:
        raise RecipeError(
            f"batch.sequences is {batch.sequences}, which {world} ranks cannot share evenly; "
            f"take a multiple of {world}"
        )
    return batch.sequences // world


def assemble(
    recipe: Recipe, folder: Path, ranks: Ranks, group: Group, progress: Progress
) -> Assembly:
    """Put together everything that a run needs; see the module's text.

    Raises:
        RecipeError, DataError, CheckpointError: as the parts raise them.
    """
    rows = micro_sequences(recipe, group.world)
    data = prepare_data(recipe, folder, group, progress)
    # Before anything large exists: to find out by running out of memory takes others along.
    check_memory(
        estimate_memory(recipe, data.tokenizer.vocabulary_size, world=group.world),
        group.device,
        ranks.local_world,
    )
    progress("building the network")
    network = make_network(recipe, data)
    size = network.size()
    network.to(group.device)
    objective = build_objective(recipe.objective, network, compiled=recipe.precision.compile)
    step = Step(network, objective)
    module = _distributed(step, network, recipe, group)
    optimizers = build_optimizer(network, recipe.optimizer, group.device)
    return Assembly(data, network, module, optimizers, size, rows)


def _distributed(step: Step, network: Network, recipe: Recipe, group: Group) -> nn.Module:
    private = recipe.privacy.enabled
    if private and recipe.distribution.strategy != "fsdp":
        # Private updates sum clipped gradients themselves; DDP would sum unclipped ones.
        return step
    return distribute(
        step,
        network,
        strategy=recipe.distribution.strategy,
        # Gradients of one example are checked against autograd's, which takes float32 weights;
        # what computes in bfloat16 is autocast's business.
        dtype="float32" if private else recipe.precision.dtype,
        group=group,
        activation_checkpointing=recipe.precision.activation_checkpointing,
        compile_blocks=recipe.precision.compile,
    )


def is_running_text(recipe: Recipe) -> bool:
    """Whether targets are tokens of a running text, so that perplexity means something."""
    return recipe.objective.kind in TEXT_OBJECTIVES
