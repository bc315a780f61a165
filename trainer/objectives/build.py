"""The objective that a recipe names, for a network that can learn it.

What does not fit is refused here, before the first step: a network without an output
layer, and label smoothing of an adaptive softmax (smoothing needs the probability of
every token, and not computing those is what the adaptive softmax is for).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from trainer.errors import RecipeError
from trainer.objectives.adaptive import AdaptiveOutput
from trainer.objectives.classification import Classification
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.language import TokenPrediction
from trainer.objectives.loss import Objective
from trainer.recipe.schema import ObjectiveOptions

if TYPE_CHECKING:
    from trainer.models.network import Network

# Whether most positions have no target (or a good part, as in padded target texts).
_SPARSE = {
    "next-token": False,
    "masked": True,
    "infilling": True,
    "sequence-to-sequence": True,
}


def build_objective(
    options: ObjectiveOptions, network: Network, *, compiled: bool = False
) -> Objective:
    """Build the objective for a network. Only the kind of its output layer is looked at.

    Args:
        options: the section `objective` of the recipe.
        network: what is to be trained or evaluated.
        compiled: `precision.compile` of the recipe; compiles the inside of the chunked loss.

    Raises:
        RecipeError: the network cannot be trained on this objective.
    """
    if options.kind == "negative-sampling":
        raise RecipeError(
            "objective.kind 'negative-sampling' trains word embeddings and no other network; "
            "set model.family to 'word-embeddings'"
        )
    if options.kind == "contrastive":
        return Contrastive(temperature=options.temperature, label_smoothing=options.label_smoothing)
    if network.output is None:
        raise RecipeError(
            f"objective.kind {options.kind!r} needs an output layer, which this "
            f"{network.family} does not have; put 'output' into parts.replace"
        )
    if options.kind in {"classification", "tagging"}:
        return Classification(label_smoothing=options.label_smoothing)
    if isinstance(network.output, AdaptiveOutput):
        if options.label_smoothing > 0:
            raise RecipeError(
                "objective.label_smoothing does not go with an adaptive softmax, which does "
                "not compute every token's probability; set it to 0, or objective.softmax "
                "to 'chunked'"
            )
    elif options.softmax == "adaptive":
        raise RecipeError(
            f"objective.softmax is 'adaptive', but the output layer of this {network.family} "
            "is an ordinary one; use 'chunked'"
        )
    # Only a linear output layer can be taken apart into chunks.
    chunked = options.softmax == "chunked" and isinstance(network.output, nn.Linear)
    return TokenPrediction(
        label_smoothing=options.label_smoothing,
        chunk_tokens=options.chunk_tokens if chunked else 0,
        sparse=_SPARSE[options.kind],
        compiled=compiled,
    )
