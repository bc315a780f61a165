from __future__ import annotations

import dataclasses

import pytest

from trainer.embeddings.settings import check_memory, skip_gram_options, thread_count
from trainer.errors import MemoryEstimateError, RecipeError
from trainer.recipe.parse import load_recipe
from trainer.recipe.schema import Recipe


def ready() -> Recipe:
    return load_recipe("word-embeddings", ["data.train=text.txt"]).recipe


def changed(section: str, **values) -> Recipe:
    recipe = ready()
    part = dataclasses.replace(getattr(recipe, section), **values)
    return dataclasses.replace(recipe, **{section: part})


def test_the_ready_recipe_has_the_settings_of_word2vec():
    options = skip_gram_options(ready(), 2)
    assert (options.width, options.window, options.negatives, options.passes) == (100, 5, 5, 5)
    assert options.subsample == 1e-3
    assert options.learning_rate == 0.025
    assert options.final_rate == pytest.approx(0.0001)
    assert options.threads == 2


def test_a_constant_schedule_keeps_the_rate():
    options = skip_gram_options(changed("optimizer", schedule="constant"), 1)
    assert options.final_rate == options.learning_rate


@pytest.mark.parametrize(
    ("section", "values", "remedy"),
    [
        ("optimizer", {"name": "adamw"}, "optimizer.name=sgd"),
        ("optimizer", {"schedule": "cosine"}, "optimizer.schedule=linear"),
        ("optimizer", {"warmup_steps": 1}, "optimizer.warmup_steps=0"),
        ("optimizer", {"weight_decay": 0.1}, "optimizer.weight_decay=0.0"),
        ("optimizer", {"clip_norm": 1.0}, "optimizer.clip_norm=0.0"),
        ("precision", {"dtype": "bfloat16"}, "precision.dtype=float32"),
        ("tokenizer", {"kind": "bpe"}, "tokenizer.kind=word"),
        ("model", {"source": "/some/where"}, "model.source="),
        ("run", {"device": "cuda"}, "run.device=cpu"),
    ],
)
def test_what_does_not_apply_is_refused_with_what_to_set(section, values, remedy):
    with pytest.raises(RecipeError, match=remedy):
        skip_gram_options(changed(section, **values), 1)


def test_threads_are_those_of_the_environment_or_all_cores():
    assert thread_count({"OMP_NUM_THREADS": "3"}) == 3
    assert thread_count({}) >= 1


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "99999"])
def test_a_number_of_threads_that_is_none_is_refused(value):
    with pytest.raises(RecipeError, match="OMP_NUM_THREADS"):
        thread_count({"OMP_NUM_THREADS": value})


def test_matrices_beyond_the_memory_are_refused_with_both_figures():
    check_memory(10_000, 100)
    with pytest.raises(MemoryEstimateError, match=r"need [\d.]+ GiB .* [\d.]+ GiB are free"):
        check_memory(1_000_000_000, 65536)
