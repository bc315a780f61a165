"""What a recipe means for word embeddings, and what it must not ask for.

Skip-gram is trained by plain stochastic gradient descent without locks: a recipe that
names another optimizer, decay, clipping, warm-up or several ranks is refused instead of
being followed in part.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil

from trainer.embeddings.training import SkipGramOptions
from trainer.errors import MemoryEstimateError, RecipeError
from trainer.recipe.schema import Recipe

# Matrices that exist at the same time: inputs and outputs, and their copies while saving.
_MATRICES = 4
_FLOAT_BYTES = 4
_THREADS_VARIABLE = "OMP_NUM_THREADS"
_MAX_THREADS = 1024


def skip_gram_options(recipe: Recipe, threads: int) -> SkipGramOptions:
    """Return what a recipe says about skip-gram.

    Raises:
        RecipeError: it asks for what does not apply; the message says what to set.
    """
    needed = {
        "model.source": (recipe.model.source, ""),
        "optimizer.name": (recipe.optimizer.name, "sgd"),
        "optimizer.warmup_steps": (recipe.optimizer.warmup_steps, 0),
        "optimizer.weight_decay": (recipe.optimizer.weight_decay, 0.0),
        "optimizer.clip_norm": (recipe.optimizer.clip_norm, 0.0),
        "precision.dtype": (recipe.precision.dtype, "float32"),
        "tokenizer.kind": (recipe.tokenizer.kind, "word"),
    }
    wrong = [f"{key}={wanted}" for key, (found, wanted) in needed.items() if found != wanted]
    if recipe.optimizer.schedule not in ("linear", "constant"):
        wrong.append("optimizer.schedule=linear")
    if recipe.run.device == "cuda":
        wrong.append("run.device=cpu")
    if wrong:
        raise RecipeError(
            "word embeddings are trained on words by plain stochastic gradient descent on CPUs; "
            f"set {' '.join(wrong)}"
        )
    falls = recipe.optimizer.schedule == "linear"
    share = recipe.optimizer.final_fraction if falls else 1.0
    return SkipGramOptions(
        width=recipe.model.width,
        window=recipe.objective.window,
        negatives=recipe.objective.negatives,
        subsample=recipe.objective.subsample,
        learning_rate=recipe.optimizer.learning_rate,
        final_rate=recipe.optimizer.learning_rate * share,
        passes=recipe.run.steps,
        seed=recipe.run.seed,
        threads=threads,
    )


def thread_count(environ: Mapping[str, str]) -> int:
    """Return OMP_NUM_THREADS if it is set, otherwise the cores this process may use.

    Raises:
        RecipeError: the variable is no positive number.
    """
    wanted = environ.get(_THREADS_VARIABLE, "")
    if not wanted:
        return len(os.sched_getaffinity(0))
    if not wanted.isdecimal() or not 1 <= int(wanted) <= _MAX_THREADS:
        raise RecipeError(f"{_THREADS_VARIABLE} must be a number from 1 to {_MAX_THREADS:,}")
    return int(wanted)


def check_memory(vocabulary_size: int, width: int) -> None:
    """Refuse matrices that this machine has no memory for.

    Raises:
        MemoryEstimateError: with both figures.
    """
    needed = _MATRICES * _FLOAT_BYTES * vocabulary_size * width
    available = int(psutil.virtual_memory().available)
    if needed > available:
        raise MemoryEstimateError(
            f"{vocabulary_size:,} words of {width:,} floats need {needed / 2**30:.1f} GiB while "
            f"they are saved, and {available / 2**30:.1f} GiB are free; take a smaller "
            "model.width, a smaller tokenizer.vocabulary_size or a larger tokenizer.minimum_count"
        )
