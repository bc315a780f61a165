"""A checkpoint directory on a data set, whatever family and objective it is of.

The checkpoint is measured by the objective it was trained for unless another is given,
and reads files as its recipe says unless options are given. Nothing is written but a
scratch folder of shards, which is gone when the call returns.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainer.data.assemble import evaluation_data
from trainer.embeddings.evaluation import evaluate_embeddings
from trainer.embeddings.vectors import is_word_embeddings
from trainer.evaluation.network import Progress, evaluate_network
from trainer.evaluation.opening import OpenCheckpoint, kind_of, open_checkpoint, require_fit
from trainer.evaluation.result import EvaluationResult
from trainer.recipe.schema import DataOptions, ObjectiveOptions


def evaluate_checkpoint(
    folder: Path,
    paths: Sequence[Path],
    *,
    objective: ObjectiveOptions | None = None,
    data: DataOptions | None = None,
    device: str = "auto",
    sequences: int = 0,
    batch: int = 16,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure a checkpoint on files.

    Args:
        folder: the checkpoint's directory.
        paths: files or directories: text, JSONL, Parquet, TSV, CSV.
        objective: what to measure; None takes what the checkpoint was trained for.
        data: how to read the files; None takes the recipe's own options, and for a
            directory without one the defaults.
        device: "auto", "cpu" or "cuda".
        sequences: sequences or examples to take, evenly spread; 0 takes all.
        batch: items of one forward pass.
        progress: is told (items seen, items in all).

    Raises:
        CheckpointError: the checkpoint cannot be read.
        DataError: the data cannot be used.
        RecipeError: the checkpoint cannot do what is asked.
        DivergenceError: the weights give no numbers.
    """
    if is_word_embeddings(folder):
        # No sequences and no output layer: this family measures itself.
        return evaluate_embeddings(folder, paths, data)
    checkpoint = open_checkpoint(folder, device)
    wanted = objective or own_objective(checkpoint)
    require_fit(checkpoint, wanted.kind)
    options = fitting(checkpoint, data)
    # A folder on the disk that will hold the shards only while they are read.
    with tempfile.TemporaryDirectory(prefix="casemate-evaluate-") as scratch:
        dataset = evaluation_data(
            [str(path) for path in paths],
            objective=wanted,
            data=options,
            tokenizer=checkpoint.tokenizer,
            labels=checkpoint.network.labels,
            folder=Path(scratch),
        )
        return evaluate_network(
            checkpoint.network,
            wanted,
            dataset,
            device=checkpoint.device,
            sequences=sequences,
            batch=batch,
            progress=progress,
        )


def own_objective(checkpoint: OpenCheckpoint) -> ObjectiveOptions:
    """Return the objective a checkpoint was trained for, from its recipe or its network."""
    if checkpoint.recipe is not None:
        return checkpoint.recipe.objective
    return ObjectiveOptions(kind=kind_of(checkpoint.network))


def fitting(checkpoint: OpenCheckpoint, data: DataOptions | None) -> DataOptions:
    """Return the options with sequences no longer than the network has positions for."""
    if data is None:
        data = checkpoint.recipe.data if checkpoint.recipe is not None else DataOptions()
    context = checkpoint.network.context
    if data.sequence_length <= context:
        return data
    return dataclasses.replace(data, sequence_length=context)
