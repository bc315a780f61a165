"""`--estimate`: what a recipe would need, without data and without running anything.

Weights, gradients and optimizer state are exact for the vocabulary that is assumed;
activations are estimated (see `trainer.models.memory`). Without data the vocabulary is
what the recipe asks for, which a small corpus may not reach.
"""

from __future__ import annotations

from typing import Any

import click

from trainer.recipe.schema import Recipe

# Of a character vocabulary before the text is known: a European script with room.
_CHARACTERS = 256
_FLOAT_BYTES = 4
_PARTS = ("weights", "gradients", "optimizer", "activations", "examples")
_GIB = 2**30
_MIB = 2**20


def estimate(recipe: Recipe, ranks: int = 1) -> dict[str, Any]:
    """Return size and memory of a recipe as JSON types; bytes are those of one rank.

    Raises:
        RecipeError: sizes that do not fit one another.
        CheckpointError: the directory to start from cannot be read.
    """
    from trainer.distribution.environment import Ranks
    from trainer.loop.devices import choose_device
    from trainer.models.memory import available_memory

    vocabulary = recipe.tokenizer.vocabulary_size
    if recipe.tokenizer.kind == "character":
        vocabulary = _CHARACTERS
    device = choose_device(recipe.run.device, Ranks())
    there = available_memory(device)
    parts = _word_vectors(recipe, vocabulary) if _is_words(recipe) else None
    if parts is None:
        parts = _network(recipe, vocabulary, ranks)
    total = sum(parts[f"{name}_bytes"] for name in _PARTS)
    needed = total * ranks if device.type == "cpu" else total
    tokens = recipe.batch.sequences * recipe.data.sequence_length
    return {
        **parts,
        "total_bytes": total,
        "ranks": ranks,
        "device": device.type,
        "available_bytes": there,
        "fits": needed <= there,
        "vocabulary_size": None if recipe.model.source else vocabulary,
        "tokens_per_step": None if _is_words(recipe) else tokens,
        "tokens_of_run": None if _is_words(recipe) else tokens * recipe.run.steps,
        "suggestion": None if _is_words(recipe) else _suggestion(recipe, parts["parameters"]),
    }


def _is_words(recipe: Recipe) -> bool:
    return recipe.model.family == "word-embeddings"


def _network(recipe: Recipe, vocabulary: int, ranks: int) -> dict[str, Any]:
    from trainer.models.memory import estimate_memory

    found = estimate_memory(recipe, vocabulary, world=ranks)
    return {
        "parameters": found.parameters,
        **{f"{name}_bytes": getattr(found, name) for name in _PARTS},
    }


def _word_vectors(recipe: Recipe, vocabulary: int) -> dict[str, Any]:
    """Word vectors and their context vectors; plain gradient descent keeps nothing else."""
    parameters = 2 * vocabulary * recipe.model.width
    sizes = dict.fromkeys((f"{name}_bytes" for name in _PARTS), 0)
    sizes["weights_bytes"] = parameters * _FLOAT_BYTES
    return {"parameters": parameters, **sizes}


def _suggestion(recipe: Recipe, parameters: int) -> dict[str, Any] | None:
    """Return what the shape of a new decoder asks for; the rule is known for no other family."""
    from trainer.models.depth import resolve_shape, suggest

    if (recipe.model.family, recipe.objective.kind) != ("decoder", "next-token"):
        return None
    if recipe.model.source:
        return None
    shape = resolve_shape(recipe.model)
    found = suggest(shape, parameters)
    return {
        "layers": shape.layers,
        "width": shape.width,
        "heads": shape.heads,
        "inner_width": shape.inner,
        "sequence_length": found.context,
        "learning_rate": found.learning_rate,
        "tokens": found.tokens,
    }


def render_estimate(data: dict[str, Any]) -> None:
    """Print an estimate."""
    vocabulary = data["vocabulary_size"]
    assumed = "" if vocabulary is None else f" (with a vocabulary of {vocabulary:,})"
    click.echo(f"weights       {data['parameters']:,}{assumed}")
    for name in _PARTS:
        if name != "examples" or data["examples_bytes"]:
            click.echo(f"  {name:<12}{_size(data[f'{name}_bytes'])}")
    ranks = "" if data["ranks"] == 1 else f" a rank, {data['ranks']} ranks"
    fits = "fits" if data["fits"] else "does not fit"
    click.echo(
        f"  {'in all':<12}{_size(data['total_bytes'])}{ranks}; {fits} into "
        f"{_size(data['available_bytes']).strip()} free on {data['device']}"
    )
    if data["tokens_per_step"]:
        click.echo(
            f"tokens        {data['tokens_per_step']:,} an update, {data['tokens_of_run']:,} in all"
        )
    if data["suggestion"]:
        found = data["suggestion"]
        click.echo(
            f"this shape    {found['layers']} layers, {found['width']} wide, "
            f"{found['heads']} heads, {found['inner_width']} inside\n"
            f"asks for      {found['tokens']:,} tokens, a learning rate of about "
            f"{found['learning_rate']:.1g}, sequences of {found['sequence_length']:,}"
        )


def _size(count: int) -> str:
    return f"{count / _GIB:8.2f} GiB" if count >= _GIB else f"{count / _MIB:8.2f} MiB"
