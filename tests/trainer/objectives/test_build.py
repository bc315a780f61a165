"""What an objective is refused for, before the first step."""

from __future__ import annotations

import pytest
from torch import nn

from tests.trainer.objectives.tiny import Tiny
from trainer.errors import RecipeError
from trainer.objectives.adaptive import AdaptiveOutput
from trainer.objectives.build import build_objective
from trainer.recipe.schema import OBJECTIVES, ObjectiveOptions


@pytest.mark.parametrize("kind", [kind for kind in OBJECTIVES if kind != "negative-sampling"])
def test_every_kind_of_the_recipe_is_built(kind: str) -> None:
    network = Tiny(20, 4, nn.Linear(4, 20))
    assert callable(build_objective(ObjectiveOptions(kind=kind), network))


def test_negative_sampling_belongs_to_word_embeddings() -> None:
    network = Tiny(20, 4, nn.Linear(4, 20))
    with pytest.raises(RecipeError, match="word-embeddings"):
        build_objective(ObjectiveOptions(kind="negative-sampling"), network)


@pytest.mark.parametrize("kind", ["next-token", "masked", "classification", "tagging"])
def test_a_network_without_an_output_layer_is_refused(kind: str) -> None:
    with pytest.raises(RecipeError, match="output layer"):
        build_objective(ObjectiveOptions(kind=kind), Tiny(20, 4, None))


def test_an_adaptive_softmax_has_no_label_smoothing() -> None:
    network = Tiny(60, 8, AdaptiveOutput(8, 60, (10, 30)))
    with pytest.raises(RecipeError, match="label_smoothing"):
        build_objective(ObjectiveOptions(softmax="adaptive", label_smoothing=0.1), network)


def test_an_adaptive_softmax_needs_an_adaptive_output_layer() -> None:
    with pytest.raises(RecipeError, match="adaptive"):
        build_objective(ObjectiveOptions(softmax="adaptive"), Tiny(20, 4, nn.Linear(4, 20)))


def test_the_output_layer_decides_where_the_recipe_says_nothing_else() -> None:
    # Finetuning or evaluating an adaptive model with the default recipe value.
    network = Tiny(60, 8, AdaptiveOutput(8, 60, (10, 30)))
    assert callable(build_objective(ObjectiveOptions(softmax="chunked"), network))
