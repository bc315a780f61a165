"""How well word embeddings foretell the neighbours of words in a text.

The figure is the loss that training lowers, on another text: for each pair of near words,
against negatives drawn by the counts of the training text. Windows, thinning and
negatives are drawn with fixed seeds, so two checkpoints with the same vocabulary are
measured on the same pairs; figures of different vocabularies do not compare.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.data.prepare import prepare_text
from trainer.embeddings.corpus import ShardCorpus, count_words
from trainer.embeddings.training import SkipGram, SkipGramOptions
from trainer.embeddings.vectors import CONFIG_FILE, WordVectors, load_with_words
from trainer.errors import CheckpointError, DataError, RecipeError
from trainer.evaluation.result import EvaluationResult
from trainer.recipe.schema import DataOptions, ModelOptions, ObjectiveOptions, Recipe

_OBJECTIVE = "negative-sampling"


def evaluate_embeddings(
    folder: Path, paths: Sequence[Path], data: DataOptions | None = None
) -> EvaluationResult:
    """Measure a checkpoint of word embeddings on files.

    Args:
        folder: the checkpoint's directory.
        paths: files or directories of text.
        data: how to read the files; None goes by their names.

    Returns:
        The mean loss of a pair (nats); targets are pairs, examples are documents; the
        metric `unknown_words` is the share of words outside of the vocabulary.

    Raises:
        CheckpointError: the folder holds no word embeddings, or damaged ones.
        DataError: the files cannot be used, or hold no two words of the vocabulary.
    """
    vectors, tokenizer = load_with_words(folder)
    model = _model(folder, vectors)
    model.inputs[:], model.outputs[:] = vectors.inputs, vectors.outputs
    recipe = Recipe(
        model=ModelOptions(family="word-embeddings"),
        objective=ObjectiveOptions(kind=_OBJECTIVE),
        data=dataclasses.replace(
            data or DataOptions(),
            train=tuple(map(str, paths)),
            validation=(),
            validation_fraction=0.0,
            cache="",
        ),
    )
    with tempfile.TemporaryDirectory(prefix="casemate-evaluate-") as scratch:
        text = prepare_text(recipe, tokenizer, Path(scratch), lambda _: None)
        corpus = ShardCorpus(text.train, tokenizer.special, tokenizer.vocabulary_size)
        counts, words = count_words(corpus, tokenizer.vocabulary_size)
        begun = time.monotonic()
        loss, pairs = model.loss(corpus)
        seconds = time.monotonic() - begun
    if not pairs:
        raise DataError("the text holds no two words of the vocabulary beside each other")
    return EvaluationResult(
        objective=_OBJECTIVE,
        examples=text.train.documents,
        targets=pairs,
        seconds=seconds,
        loss=loss,
        metrics={"unknown_words": 1 - int(counts.sum()) / words},
    )


def _model(folder: Path, vectors: WordVectors) -> SkipGram:
    settings: dict[str, Any] = dict(vectors.settings)
    try:
        # The limits of these values are those of a recipe.
        objective = ObjectiveOptions(
            kind=_OBJECTIVE,
            window=int(settings["window"]),
            negatives=int(settings["negatives"]),
            subsample=float(settings["subsample"]),
        )
        options = SkipGramOptions(
            width=vectors.inputs.shape[1],
            window=objective.window,
            negatives=objective.negatives,
            subsample=objective.subsample,
        )
        return SkipGram(vectors.counts, options)
    except (KeyError, TypeError, ValueError, RecipeError) as error:
        raise CheckpointError(
            f"{folder} is damaged: {CONFIG_FILE} lacks window, negatives or subsample, has an "
            "impossible value there, or no word has a count"
        ) from error
