"""The loops that `benchmarks.private_step` measures: ordinary, private, and stock opacus.

Each is made of the product's own parts, at one size, and makes one step when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.data.special import SpecialTokens
from trainer.loop.step import Step
from trainer.models.build import build_network
from trainer.models.network import Network
from trainer.models.parts import apply_parts
from trainer.objectives.build import build_objective
from trainer.privacy.clipping import Clipping
from trainer.privacy.gradients import PerExampleGradients
from trainer.privacy.noise import add_noise_
from trainer.privacy.randomness import SecretGenerator
from trainer.recipe.schema import ModelOptions, ObjectiveOptions, PartsOptions

SEED = 1337
WARM_UP = 3
CLIP_NORM = 0.1
NOISE_MULTIPLIER = 0.7
LABELS = ("negative", "positive")
SPECIAL = SpecialTokens(pad=0, unknown=1, begin=2, end=3, mask=4, separator=3)
OBJECTIVES = {
    "encoder": ObjectiveOptions(kind="classification", softmax="full"),
    "decoder": ObjectiveOptions(kind="next-token", softmax="full"),
}
LOOPS = ("ordinary", "casemate", "clipped", "opacus")


@dataclass(frozen=True)
class Size:
    """A network, its batch, and what of it is trained."""

    adapter: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int
    sequences: int
    family: str = "encoder"


StepOnce = Callable[[], None]


def make_network(size: Size, device: torch.device) -> Network:
    torch.manual_seed(SEED)
    network = build_network(
        ModelOptions(
            family=size.family,
            layers=size.layers,
            width=size.width,
            heads=size.heads,
            tie_embeddings=False,
        ),
        OBJECTIVES[size.family],
        vocabulary_size=size.vocabulary,
        context=size.length,
        special=SPECIAL,
        labels=LABELS if size.family == "encoder" else (),
    )
    apply_parts(network, PartsOptions(adapter=size.adapter))
    return network.to(device).train()


def make_batch(size: Size, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    shape = (size.sequences, size.length)
    ids = torch.randint(5, size.vocabulary, shape, generator=generator)
    batch = {"input_ids": ids}
    if size.family == "encoder":
        batch["attention_mask"] = torch.ones_like(ids)
        batch["labels"] = torch.randint(len(LABELS), (size.sequences,), generator=generator)
    else:
        batch["labels"] = ids.roll(-1, 1)
    return {name: values.to(device) for name, values in batch.items()}


def make_optimizer(network: nn.Module) -> torch.optim.AdamW:
    trained = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)


def ordinary(size: Size, device: torch.device) -> StepOnce:
    network, batch = make_network(size, device), make_batch(size, device)
    step = Step(network, build_objective(OBJECTIVES[size.family], network))
    optimizer = make_optimizer(network)

    def once() -> None:
        step(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def casemate(size: Size, device: torch.device, *, noised: bool = True) -> StepOnce:
    network, batch = make_network(size, device), make_batch(size, device)
    step = Step(network, build_objective(OBJECTIVES[size.family], network))
    optimizer = make_optimizer(network)
    gradients = PerExampleGradients(step, network, Clipping("flat", CLIP_NORM))
    weights = torch.ones(size.sequences, device=device)
    generator = SecretGenerator()
    parameters = dict(network.named_parameters())

    def once() -> None:
        gradients.accumulate(batch, weights)
        sums = gradients.take()
        flat = torch.cat([values.flatten() for values in sums.values()])
        add_noise_(
            {"all": flat},
            mode="gaussian",
            noise_multiplier=NOISE_MULTIPLIER if noised else 0.0,
            sensitivity=CLIP_NORM,
            generator=generator,
        )
        flat /= size.sequences
        pieces = torch.split(flat, [values.numel() for values in sums.values()])
        for (name, values), piece in zip(sums.items(), pieces, strict=True):
            parameters[name].grad = piece.view_as(values)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def clipped(size: Size, device: torch.device) -> StepOnce:
    return casemate(size, device, noised=False)


def opacus(size: Size, device: torch.device) -> StepOnce:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    network, batch = make_network(size, device), make_batch(size, device)
    hooked = GradSampleModule(network, batch_first=True, loss_reduction="sum")
    optimizer = DPOptimizer(
        make_optimizer(network),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=size.sequences,
        loss_reduction="sum",
    )

    def once() -> None:
        logits = hooked(batch).float().flatten(0, -2)
        loss = nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def make_loop(name: str, size: Size, device: torch.device) -> StepOnce:
    """Build a loop and let it warm up; an error of opacus is the caller's to tell."""
    makers = {"ordinary": ordinary, "casemate": casemate, "clipped": clipped, "opacus": opacus}
    once = makers[name](size, device)
    for _ in range(WARM_UP):
        once()
    return once
