"""Makes two private updates of a tiny network and prints the bytes it took, and the estimate.

python -m tests.trainer.privacy.private_peak FAMILY ADAPTER ROWS LENGTH
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from trainer.data.special import SpecialTokens
from trainer.loop.step import Step
from trainer.models.build import build_network
from trainer.models.memory import estimate_memory
from trainer.models.parts import apply_parts
from trainer.objectives.build import build_objective
from trainer.privacy.clipping import Clipping
from trainer.privacy.gradients import PerExampleGradients
from trainer.privacy.noise import add_noise_
from trainer.privacy.randomness import SecretGenerator
from trainer.recipe.schema import (
    BatchOptions,
    DataOptions,
    ModelOptions,
    ObjectiveOptions,
    PartsOptions,
    PrivacyOptions,
    Recipe,
)

VOCABULARY = 4096


def peak() -> int:
    # Of this program alone: getrusage counts the parent's size before exec too.
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    family, adapter, rows, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    classified = family == "encoder"
    recipe = Recipe(
        model=ModelOptions(family=family, layers=4, width=256, heads=4, tie_embeddings=False),
        objective=ObjectiveOptions(
            kind="classification" if classified else "next-token", softmax="full"
        ),
        data=DataOptions(
            sequence_length=length, boundaries=False, labels=("a", "b") if classified else ()
        ),
        batch=BatchOptions(sequences=4 * rows, micro_sequences=rows),
        parts=PartsOptions(adapter=adapter),
        privacy=PrivacyOptions(enabled=True),
    )
    warm = torch.nn.Linear(8, 8)
    torch.optim.AdamW(warm.parameters(), fused=True)
    warm(torch.ones(1, 8)).sum().backward()
    estimate = estimate_memory(recipe, VOCABULARY)
    before = peak()
    network = apply_parts(
        build_network(
            recipe.model,
            recipe.objective,
            vocabulary_size=VOCABULARY,
            context=length,
            special=SpecialTokens(pad=0, end=1),
            labels=recipe.data.labels,
        ),
        recipe.parts,
    )
    step = Step(network, build_objective(recipe.objective, network))
    gradients = PerExampleGradients(step, network, Clipping("flat", 0.1))
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    ids = torch.randint(2, VOCABULARY, (rows, length + 1))
    batch = {"input_ids": ids[:, :-1].contiguous()}
    if classified:
        batch |= {"attention_mask": torch.ones_like(batch["input_ids"])}
        batch |= {"labels": torch.arange(rows) % 2}
    else:
        batch |= {"labels": ids[:, 1:].contiguous()}
    for _ in range(2):
        gradients.accumulate(batch, torch.ones(rows))
        sums = gradients.take()
        flat = torch.cat([values.flatten() for values in sums.values()])
        add_noise_(
            {"all": flat},
            mode="gaussian",
            noise_multiplier=1.0,
            sensitivity=0.1,
            generator=SecretGenerator(),
        )
        for parameter, piece in zip(
            trained, torch.split(flat, [p.numel() for p in trained]), strict=True
        ):
            parameter.grad = piece.view_as(parameter)
        optimizer.step()
        optimizer.zero_grad()
    print([peak() - before, estimate.total])


if __name__ == "__main__":
    main()
