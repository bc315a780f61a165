"""A rank of two: private updates under FSDP are those of one rank, noise and all.

Run by test_ranks.py with the variables that a launcher sets; ends with an error where an
update, or the noise on any coordinate, is not as it must be.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests.trainer.models.networks import make
from tests.trainer.privacy.draw_many import make_plan
from tests.trainer.privacy.naive import labelled_batch, objective_step, row
from tests.trainer.privacy.statistics import fits_variance, uncorrelated
from trainer.data.batch import Batch, Item
from trainer.distribution.channel import Channel
from trainer.distribution.environment import Ranks, resolve
from trainer.distribution.group import Group, connect
from trainer.distribution.wrap import distribute
from trainer.loop.step import Step
from trainer.models.parts import apply_parts
from trainer.optimization.optimizers import build_optimizer
from trainer.privacy.clipping import Clipping
from trainer.privacy.gradients import PerExampleGradients
from trainer.privacy.loader import PrivateLoader
from trainer.privacy.randomness import SecretGenerator
from trainer.privacy.releases import Releases
from trainer.privacy.summed import Summed
from trainer.privacy.update import PrivateUpdater
from trainer.recipe.schema import OptimizerOptions, PartsOptions

UNITS, ROWS = 8, 2
CASES = (("encoder-classifier", "none"), ("encoder-classifier", "lora"), ("decoder-untied", "none"))
DRAWS = 300
CPU = torch.device("cpu")


class Rows:
    """The rows of one batch as a data set."""

    fingerprint = "0" * 64

    def __init__(self, kind: str) -> None:
        self._batch = labelled_batch(kind, rows=UNITS)

    def __len__(self) -> int:
        return UNITS

    def item(self, epoch: int, index: int) -> Item:
        del epoch
        return {name: values.numpy() for name, values in row(self._batch, index).items()}

    def where(self, epoch: int, index: int) -> str:
        del epoch
        return f"row {index}"

    def collate(self, items: Sequence[Item]) -> Batch:
        names = items[0]
        return {n: torch.from_numpy(np.concatenate([item[n] for item in items])) for n in names}


def step_of(kind: str, adapter: str) -> Step:
    network = make(kind, tie_embeddings=False)
    if adapter != "none":
        # An odd rank: shards of different sizes.
        apply_parts(network, PartsOptions(adapter=adapter, lora_rank=3))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return objective_step(kind, network)


def updated(kind: str, adapter: str, group: Group, strategy: str) -> dict[str, Tensor]:
    """Make three updates of all records, with next to no noise; return the trained weights."""
    step = step_of(kind, adapter)
    if strategy == "fsdp":
        distribute(step, step.network, strategy=strategy, dtype="float32", group=group)
    plan = make_plan(units=UNITS, expected=UNITS)
    plan = replace(plan, noise_multiplier=1e-9, clip_norm=0.5)
    options = OptimizerOptions(name="sgd", learning_rate=0.5, weight_decay=0.0, warmup_steps=0)
    gradients = PerExampleGradients(step, step.network, Clipping("flat", plan.clip_norm))
    data = Rows(kind)
    gradients.check(data.collate([data.item(0, index) for index in range(2)]))
    updater = PrivateUpdater(
        module=step,
        network=step.network,
        gradients=gradients,
        optimizers=build_optimizer(step.network, options, CPU),
        loader=PrivateLoader(data, None, plan, ROWS, group),
        plan=plan,
        releases=Releases(None, "run", group),
        group=group,
        options=options,
        seed=1,
        autocast=nullcontext,
    )
    norms = [updater.update(number).gradient_norm for number in range(3)]
    found = {
        name: parameter.detach()
        for name, parameter in step.network.named_parameters()
        if parameter.requires_grad
    }
    sharded = [isinstance(values, DTensor) for values in found.values()]
    require(all(sharded) if strategy == "fsdp" else not any(sharded), "weights are held otherwise")
    whole = {n: v.full_tensor() if isinstance(v, DTensor) else v for n, v in found.items()}
    return {**whole, "norms": torch.tensor(norms)}


def require(fact: bool, problem: str) -> None:
    if not fact:
        raise RuntimeError(problem)


def check_updates(group: Group, kind: str, adapter: str) -> None:
    alone = Group(Ranks(), CPU, Channel(0, 1, None), Channel(0, 1, None))
    expected = updated(kind, adapter, alone, "ddp")
    before = {n: p.detach() for n, p in step_of(kind, adapter).network.named_parameters()}
    for strategy in ("ddp", "fsdp"):
        found = updated(kind, adapter, group, strategy)
        for name, values in expected.items():
            apart = float((found[name] - values).norm())
            moved = float((values - before.get(name, torch.zeros(()))).norm())
            what = f"{kind}, {adapter}, {strategy}: {name} is off by {apart} of {moved}"
            require(apart <= 1e-6 * max(moved, float(values.norm()), 1e-3), what)


def check_noise(group: Group, mode: str) -> None:
    """Every coordinate gets noise once, of the right size, and none shares it with another."""
    step = step_of("encoder-classifier", "none")
    distribute(step, step.network, strategy="fsdp", dtype="float32", group=group)
    parameters = dict(step.network.named_parameters())
    zeros = {name: torch.zeros(parameter.shape) for name, parameter in parameters.items()}
    plan = replace(make_plan(units=UNITS, expected=UNITS), noise=mode, noise_multiplier=2.0)
    generator = SecretGenerator()
    draws = []
    for _ in range(DRAWS):
        sums = Summed(zeros, parameters, group)
        sums.add_noise(plan, generator)
        sums.divide(plan.normalizer)
        sums.give()
        draws.append(torch.cat([local(parameter).flatten() for parameter in parameters.values()]))
    values = torch.stack(draws).double().numpy() * plan.normalizer / plan.noise_std
    # The ranks' shards are all weights, each once.
    sizes = group.gather(values.shape[1])
    require(sum(sizes) == sum(p.numel() for p in parameters.values()), "a weight is left out")
    # The discrete noise is larger by what rounding adds, which is next to nothing here.
    require(fits_variance(values.flatten(), 1.0001 if mode == "discrete" else 1.0), "variance")
    # Of a coordinate without noise this is 0, of one with noise twice it is about 2.
    each = (values**2).mean(axis=0)
    require(bool(each.min() > 0.4), f"{mode}: a coordinate got too little noise: {each.min()}")
    require(bool(each.max() < 1.8), f"{mode}: a coordinate got too much noise: {each.max()}")
    # What one rank adds says nothing of what the other adds, nor of the next draw.
    shared = torch.from_numpy(values[:, : min(sizes)].copy())
    both = [torch.empty_like(shared) for _ in sizes]
    dist.all_gather(both, shared)
    require(uncorrelated(both[0].numpy(), both[1].numpy()), "ranks share their noise")
    require(uncorrelated(values[:-1], values[1:]), "draws share their noise")


def local(parameter: nn.Parameter) -> Tensor:
    """This rank's shard of a gradient."""
    if not isinstance(parameter.grad, DTensor):
        raise RuntimeError("a gradient is not sharded")
    return parameter.grad.to_local()


def main() -> None:
    """Check updates and noise."""
    torch.set_num_threads(1)
    with connect(resolve(os.environ), CPU, 60) as group:
        for kind, adapter in CASES:
            check_updates(group, kind, adapter)
        for mode in ("gaussian", "discrete"):
            check_noise(group, mode)


if __name__ == "__main__":
    main()
