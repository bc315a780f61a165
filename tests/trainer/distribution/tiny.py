"""A tiny network in blocks, with a tied matrix and a part that is not always used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.distribution.gradients import (
    accumulate,
    clip_factor,
    gradient_norm,
    scale_gradients,
)
from trainer.distribution.group import Group

VOCABULARY = 23
WIDTH = 12
MICRO_BATCHES = 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + nn.functional.gelu(self.dense(self.norm(hidden)))


class TinyNetwork(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(layers))
        self.never_used = nn.Linear(WIDTH, 3)
        self.output = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.output.weight = self.table.weight
        self.register_buffer("scale", torch.tensor(1.5))

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.table(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.output(hidden * self.scale)
        return logits


class TinyStep(nn.Module):
    def __init__(self, network: TinyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(ids)
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        return loss, (labels != -100).sum()


def make_step(seed: int = 0) -> TinyStep:
    torch.manual_seed(seed)
    return TinyStep(TinyNetwork())


def make_optimizers(module: nn.Module, *, two: bool = False) -> list[torch.optim.Optimizer]:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if two:
        return [
            torch.optim.SGD(parameters[:2], lr=0.05, momentum=0.9),
            torch.optim.AdamW(parameters[2:], lr=0.02),
        ]
    return [torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1, fused=True)]


def micro_batch(step: int, index: int) -> tuple[Tensor, Tensor]:
    """Sequences with uneven numbers of targets, so that means of means would differ."""
    generator = torch.Generator().manual_seed(1000 * step + index)
    ids = torch.randint(VOCABULARY, (2, 7), generator=generator)
    labels = torch.randint(VOCABULARY, (2, 7), generator=generator)
    labels[:, : index + 1] = -100
    return ids, labels


def train(
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    group: Group,
    steps: range,
    limit: float = 0.5,
) -> list[tuple[float, float]]:
    """Make updates as the loop does; return loss and gradient norm of each."""
    curve: list[tuple[float, float]] = []
    for step in steps:
        mine = [m for m in range(MICRO_BATCHES) if m % group.world == group.rank]
        figures = torch.zeros(2, dtype=torch.float64)
        for index in mine:
            with accumulate(module, last=index == mine[-1]):
                loss, count = module(*micro_batch(step, index))
                loss.backward()
            figures += torch.tensor([float(loss.detach()), float(count)])
        group.sum_(figures)
        total, count = figures.tolist()
        norm = float(gradient_norm(module.parameters())) / count
        scale_gradients(module.parameters(), clip_factor(norm, limit) / count)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        curve.append((total / count, norm))
    return curve


def plain(value: Any) -> Any:
    """Return a DTensor as a whole tensor, anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
