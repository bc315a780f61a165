from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.trainer.models.networks import KINDS, make, model_options, objective_options
from trainer.errors import MemoryEstimateError
from trainer.models.memory import MemoryEstimate, available_memory, check_memory, estimate_memory
from trainer.recipe.schema import (
    BatchOptions,
    DataOptions,
    DistributionOptions,
    ModelOptions,
    OptimizerOptions,
    PartsOptions,
    PrecisionOptions,
    Recipe,
)

DECODER = Recipe(
    model=ModelOptions(layers=4, width=256, heads=4),
    data=DataOptions(sequence_length=128, boundaries=False),
    batch=BatchOptions(sequences=8),
)
CPU = torch.device("cpu")

# The same network, batch and step, in a process of its own; prints its bytes above the
# libraries'.
_CHILD = """
import torch
from trainer.data.special import SpecialTokens
from trainer.models.build import build_network
from trainer.objectives.build import build_objective
from trainer.recipe.schema import ModelOptions, ObjectiveOptions
torch.set_num_threads(1)
warm = torch.nn.Linear(8, 8)
torch.optim.AdamW(warm.parameters(), fused=True)
warm(torch.ones(1, 8)).sum().backward()
def peak():
    # Of this program alone: getrusage counts the parent's size before exec too.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
before = peak()
network = build_network(
    ModelOptions(layers=4, width=256, heads=4), ObjectiveOptions(),
    vocabulary_size=4096, context=128, special=SpecialTokens(end=0),
)
objective = build_objective(ObjectiveOptions(), network)
optimizer = torch.optim.AdamW(network.parameters(), fused=True)
ids = torch.randint(0, 4096, (8, 129))
for _ in range(2):
    loss = objective(network, {"input_ids": ids[:, :-1], "labels": ids[:, 1:].contiguous()})
    loss.total.backward()
    optimizer.step()
print(peak() - before)
"""


def test_the_estimate_is_within_two_of_the_peak():
    child = subprocess.run(
        [sys.executable, "-c", _CHILD], capture_output=True, text=True, timeout=100
    )
    assert child.returncode == 0, child.stderr
    measured = json.loads(child.stdout)
    estimated = estimate_memory(DECODER, 4096).total
    assert measured / 2 < estimated < measured * 2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_kind_are_exact(kind, tmp_path):
    recipe = Recipe(
        model=model_options(kind),
        objective=objective_options(kind),
        data=DataOptions(
            sequence_length=16,
            labels=("a", "b", "c")
            if objective_options(kind).kind in ("classification", "tagging")
            else (),
        ),
    )
    estimate = estimate_memory(recipe, 61)
    parameters = make(kind).size().parameters
    assert estimate.parameters == parameters
    assert (estimate.weights, estimate.gradients) == (4 * parameters, 4 * parameters)
    assert estimate.optimizer == 8 * parameters
    assert estimate.activations > 0
    make(kind).save(tmp_path)
    from_directory = replace(recipe, model=replace(recipe.model, source=str(tmp_path)))
    assert estimate_memory(from_directory, 61).parameters == parameters


def test_what_lowers_an_estimate():
    plain = estimate_memory(DECODER, 4096)

    def other(world=1, **sections):
        return estimate_memory(replace(DECODER, **sections), 4096, world=world)

    halved = other(batch=BatchOptions(sequences=8, micro_sequences=4))
    assert plain.activations / 2.5 < halved.activations < plain.activations / 1.5
    recomputed = other(precision=PrecisionOptions(activation_checkpointing=True))
    assert recomputed.activations < plain.activations * 2 / 3
    assert other(precision=PrecisionOptions(dtype="bfloat16")).activations < plain.activations
    assert other(optimizer=OptimizerOptions(name="sgd")).optimizer == plain.optimizer / 2
    muon = other(optimizer=OptimizerOptions(name="muon")).optimizer
    assert plain.optimizer / 2 < muon < plain.optimizer
    frozen = other(parts=PartsOptions(freeze_layers=3))
    assert frozen.gradients < plain.gradients
    assert frozen.optimizer == 2 * frozen.gradients
    sharded = other(world=4, distribution=DistributionOptions(strategy="fsdp"))
    assert sharded.optimizer == plain.optimizer // 4
    assert sharded.total < other(world=4).total
    assert other(world=4).activations < plain.activations / 2


def test_what_raises_an_estimate():
    plain = estimate_memory(DECODER, 4096)
    assert plain.activations < estimate_memory(DECODER, 50_000).activations
    full = replace(DECODER, objective=replace(DECODER.objective, softmax="full"))
    few = replace(DECODER, objective=replace(DECODER.objective, chunk_tokens=64))
    assert estimate_memory(few, 50_000).total < estimate_memory(full, 50_000).total
    dropout = replace(DECODER, model=replace(DECODER.model, dropout=0.1))
    assert estimate_memory(dropout, 4096).activations > plain.activations


def test_what_does_not_fit_is_refused_with_figures():
    large = MemoryEstimate(10, 3 * 2**30, 2**30, 2 * 2**30, 2**29)
    check_memory(large, CPU, available=7 * 2**30)
    with pytest.raises(
        MemoryEstimateError,
        match=r"about 6\.50 GiB and 6\.00 GiB are free on cpu: weights 3\.00 GiB.*model\.depth",
    ):
        check_memory(large, CPU, available=6 * 2**30)
    with pytest.raises(MemoryEstimateError, match=r"13\.00 GiB for 2 ranks of 6\.50 GiB"):
        check_memory(large, CPU, 2, available=7 * 2**30)
    with pytest.raises(MemoryEstimateError, match=r"helps most: batch\.micro_sequences"):
        check_memory(replace(large, activations=2**40), CPU, available=2**30)


def test_a_network_of_a_trillion_weights_is_refused_here():
    recipe = replace(DECODER, model=ModelOptions(depth=200), precision=PrecisionOptions())
    estimate = estimate_memory(recipe, 100_000)
    assert estimate.parameters > 3e11
    with pytest.raises(MemoryEstimateError):
        check_memory(estimate, CPU)


def test_available_memory_of_this_machine():
    assert 2**20 < available_memory(CPU) < 2**50
