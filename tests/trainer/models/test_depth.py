from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.models.networks import SPECIAL
from trainer.errors import RecipeError
from trainer.models.build import build_network
from trainer.models.depth import resolve_shape, suggest
from trainer.recipe.schema import ModelOptions, ObjectiveOptions


@given(depth=st.integers(1, 64), family=st.sampled_from(["decoder", "encoder", "seq2seq"]))
def test_one_dial_sizes_a_network(depth, family):
    shape = resolve_shape(ModelOptions(family=family, depth=depth, width=8, layers=1))
    assert (shape.layers, shape.width, shape.heads) == (depth, 64 * depth, depth)
    assert shape.head_width == 64
    assert shape.inner % 64 == 0
    factor = 4 if family == "encoder" else 8 / 3
    assert 0 <= shape.inner - factor * shape.width < 64


def test_depth_12_is_the_124m_class():
    with torch.device("meta"):
        network = build_network(
            ModelOptions(depth=12),
            ObjectiveOptions(),
            vocabulary_size=50_304,
            context=1024,
            special=SPECIAL,
        )
    size = network.size()
    assert size.parameters == pytest.approx(124e6, rel=0.02)
    suggestion = suggest(resolve_shape(ModelOptions(depth=12)), size.parameters)
    assert suggestion.learning_rate == pytest.approx(6e-4)
    assert suggestion.tokens == 20 * size.parameters
    assert suggestion.context == 1024


@given(st.integers(1, 63))
def test_suggestions_go_one_way(depth):
    small, large = (suggest(resolve_shape(ModelOptions(depth=d)), 1000) for d in (depth, depth + 1))
    assert small.learning_rate >= large.learning_rate
    assert small.context <= large.context
    assert small.learning_rate <= 3e-3


def test_without_the_dial_the_values_count():
    shape = resolve_shape(ModelOptions(layers=3, width=96, heads=4, kv_heads=2, inner_width=100))
    assert (shape.layers, shape.width, shape.heads, shape.kv_heads, shape.inner) == (
        3,
        96,
        4,
        2,
        100,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 100, "heads": 3}, "do not divide evenly"),
        ({"width": 36, "heads": 4}, "even width"),
        ({"width": 32, "heads": 4, "kv_heads": 3}, "does not divide 4 heads"),
    ],
)
def test_sizes_that_do_not_fit(values, message):
    with pytest.raises(RecipeError, match=message):
        resolve_shape(ModelOptions(**values))


def build(model, objective, labels=(), special=SPECIAL):
    return build_network(
        model, objective, vocabulary_size=61, context=8, special=special, labels=labels
    )


def test_what_cannot_be_built():
    adaptive = ObjectiveOptions(kind="classification", softmax="adaptive")
    with pytest.raises(RecipeError, match="two labels"):
        build(ModelOptions(family="encoder"), ObjectiveOptions(kind="tagging"), ("one",))
    with pytest.raises(RecipeError, match="large vocabularies"):
        build(ModelOptions(family="recurrent"), adaptive, ("a", "b"))
    with pytest.raises(RecipeError, match="padding token"):
        build(ModelOptions(family="seq2seq"), ObjectiveOptions(), special=type(SPECIAL)())
    with pytest.raises(RecipeError, match="word-embeddings"):
        build(ModelOptions(family="word-embeddings"), ObjectiveOptions())
