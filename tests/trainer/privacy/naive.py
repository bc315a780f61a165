"""Gradients of each example by the plain road: one forward and backward pass for each."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from tests.trainer.models.networks import KINDS, make, make_batch, objective_options
from trainer.data.batch import Batch
from trainer.loop.step import Step
from trainer.models.network import Network
from trainer.objectives.build import build_objective

# Everything that can be trained privately: the output layer may not share the table.
PRIVATE_KINDS = tuple(kind for kind in KINDS if kind != "lstm-adaptive" and "embedding" not in kind)


def make_step(kind: str, **values: Any) -> Step:
    """A tiny network with its objective, full softmax, no ties."""
    network = make(kind, **{"tie_embeddings": False, **values})
    # Biases of 0 and scales of 1 hide mistakes.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return objective_step(kind, network)


def objective_step(kind: str, network: Network) -> Step:
    """A network with the objective of its kind."""
    options = dataclasses.replace(objective_options(kind), softmax="full")
    return Step(network, build_objective(options, network)).train()


def labelled_batch(kind: str, rows: int = 4) -> Batch:
    """A batch with targets; where an objective leaves tokens out, some examples have few."""
    batch = dict(make_batch(kind, rows=rows))
    _, objective, *_ = KINDS[kind]
    ids = batch.get("decoder_input_ids", batch["input_ids"])
    if objective == "classification":
        batch["labels"] = torch.arange(rows) % 3
    elif objective == "tagging":
        batch["labels"] = ids % 3
    else:
        batch["labels"] = ids.roll(1, 1).clone()
        if objective != "next-token":
            generator = torch.Generator().manual_seed(3)
            batch["labels"][torch.rand(ids.shape, generator=generator) < 0.5] = -100
            batch["labels"][0, 2:] = -100
    return batch


def row(batch: Batch, index: int) -> Batch:
    """One example of a batch, as a batch."""
    return {name: values[index : index + 1] for name, values in batch.items()}


def naive_gradients(step: Step, batch: Batch) -> list[dict[str, Tensor]]:
    """The gradient of every example, by the network's names; zeros where there is none."""
    found = []
    parameters = {n: p for n, p in step.network.named_parameters() if p.requires_grad}
    for index in range(len(batch["input_ids"])):
        total = step(row(batch, index)).total
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        found.append(
            {
                name: torch.zeros_like(parameter) if gradient is None else gradient
                for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
            }
        )
    return found


def norm_of(gradients: dict[str, Tensor]) -> float:
    """The norm of all gradients together, in float64."""
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))


def clipped_sum(
    gradients: list[dict[str, Tensor]], weights: list[float], clip_norm: float
) -> dict[str, Tensor]:
    """The sum of what flat clipping leaves of each example."""
    total = {name: torch.zeros_like(g, dtype=torch.float64) for name, g in gradients[0].items()}
    for each, weight in zip(gradients, weights, strict=True):
        factor = weight * min(1.0, clip_norm / max(norm_of(each), 1e-30))
        for name, gradient in each.items():
            total[name] += factor * gradient.double()
    return total


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """How far two sets of tensors are apart, as a share of the second's norm."""
    assert found.keys() == expected.keys()
    apart = {name: found[name].double() - expected[name].double() for name in found}
    return norm_of(apart) / norm_of(expected)
