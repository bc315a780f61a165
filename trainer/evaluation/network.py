"""A network in memory on a data set, one process.

Every item is seen once, without noise of training, dropout or gradients; the network is
in the mode it was in before when the call returns. The global random state is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from trainer.data.batch import DataSet, HasBytes
from trainer.data.loader import Sweep
from trainer.errors import RecipeError
from trainer.evaluation.result import EvaluationResult
from trainer.evaluation.tallies import LabelTally, LanguageTally, PairTally, Tally
from trainer.models.generation import generating
from trainer.models.network import Network
from trainer.objectives.build import build_objective
from trainer.recipe.schema import ObjectiveOptions

# Told (items seen, items in all) after each batch.
Progress = Callable[[int, int], None]


def evaluate_network(
    network: Network,
    objective: ObjectiveOptions,
    dataset: DataSet,
    *,
    device: torch.device,
    labels: tuple[str, ...] | None = None,
    bytes_per_token: float | None = None,
    sequences: int = 0,
    batch: int = 16,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure a network on a data set.

    Args:
        network: on `device`, not wrapped.
        objective: what to measure.
        dataset: its items as they are in epoch 0.
        device: where to compute.
        labels: names of the classes; None takes the network's.
        bytes_per_token: for bits per byte of running text; None asks the data set.
        sequences: items to take, evenly spread; 0 takes all.
        batch: items of one forward pass.
        progress: is told after each pass.

    Raises:
        DataError: the data set is empty or holds no target.
        DivergenceError: the loss is no number.
        RecipeError: the network cannot do what the objective asks.
    """
    if bytes_per_token is None and isinstance(dataset, HasBytes):
        bytes_per_token = dataset.bytes_per_token
    names = network.labels if labels is None else labels
    tally = _tally(network, objective, names, bytes_per_token)
    started = time.perf_counter()
    sweep = Sweep(dataset, micro_sequences=batch, limit=sequences)
    total = min(sequences, len(dataset)) if sequences else len(dataset)
    seen = 0
    with generating(network):
        for micro in sweep:
            tally.add(network, {name: one.to(device) for name, one in micro.batch.items()})
            seen += len(micro.items)
            if progress is not None:
                progress(seen, total)
    return tally.result(objective.kind, seen, time.perf_counter() - started)


def _tally(
    network: Network,
    objective: ObjectiveOptions,
    labels: tuple[str, ...],
    bytes_per_token: float | None,
) -> Tally:
    if objective.kind in ("classification", "tagging"):
        if not labels:
            raise RecipeError(f"{objective.kind} needs labels, and this checkpoint names none")
        return LabelTally(labels)
    if objective.kind == "contrastive":
        return PairTally(build_objective(objective, network))
    # Of masked and infilled text only some tokens are predicted, with the others in
    # sight: that is no code for the text, so it has no bits per byte.
    whole = objective.kind == "next-token"
    return LanguageTally(build_objective(objective, network), bytes_per_token if whole else None)
