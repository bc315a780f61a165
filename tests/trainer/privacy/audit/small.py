"""A small classifier with canaries, and two ways to train it: bare, and with honest noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainer.data.batch import DataSet
from trainer.data.files import find_files
from trainer.data.loader import Loader
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.data.tokenizing import load_labelled
from trainer.models.build import build_network
from trainer.models.network import Network
from trainer.objectives.build import build_objective
from trainer.privacy.audit.canaries import CanarySet
from trainer.privacy.audit.insertion import PlantedData, prepare_canaries, with_canaries
from trainer.recipe.schema import DataOptions, ModelOptions, ObjectiveOptions, TokenizerOptions

LABELS = ("0", "1")
WORDS = 6800
RECORDS = 200
OBJECTIVE = ObjectiveOptions(kind="classification")
DATA = DataOptions(sequence_length=24)


@dataclass(frozen=True)
class Setup:
    """Data with canaries in it, and what they were made with."""

    tokenizer: Tokenizer
    canaries: CanarySet
    data: PlantedData
    base: DataSet


def word_tokenizer(count: int = WORDS) -> Tokenizer:
    """A tokenizer of whole words: enough that canaries hardly share one."""
    options = TokenizerOptions(kind="word", vocabulary_size=count + 16, minimum_count=1)
    words = [f"w{number}" for number in range(count)]
    return train_tokenizer(options, [" ".join(words)], "convolution").tokenizer


def setup(folder: Path, canaries: int = 200) -> Setup:
    """Records whose label their first word gives away, and canaries after them."""
    draw = np.random.default_rng(11)
    rows = [
        f"w{number % 2} " + " ".join(f"w{word}" for word in draw.integers(2, 40, 7))
        for number in range(RECORDS)
    ]
    path = folder / "records.tsv"
    lines = [f"{row}\t{number % 2}" for number, row in enumerate(rows)]
    path.write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    tokenizer = word_tokenizer()
    base = load_labelled(find_files([str(path)], "auto"), "classification", DATA, tokenizer, LABELS)
    planted = prepare_canaries(
        folder / "canaries.json",
        canaries,
        objective=OBJECTIVE,
        data=DATA,
        tokenizer=tokenizer,
        labels=LABELS,
        units=len(base),
    )
    data = with_canaries(
        base, planted, objective=OBJECTIVE, data=DATA, tokenizer=tokenizer, labels=LABELS
    )
    return Setup(tokenizer, planted, data, base)


def new_network(tokenizer: Tokenizer, seed: int = 3) -> Network:
    """A convolutional classifier of some 100,000 weights."""
    torch.manual_seed(seed)
    return build_network(
        ModelOptions(family="convolution", width=16, kernel_sizes=(2, 3), filters=24),
        OBJECTIVE,
        vocabulary_size=tokenizer.vocabulary_size,
        context=DATA.sequence_length,
        special=tokenizer.special,
        labels=LABELS,
    )


def train_bare(network: Network, data: DataSet, *, steps: int, rate: float) -> None:
    """Plain stochastic gradient descent: no clipping, no noise."""
    objective = build_objective(OBJECTIVE, network)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    network.train()
    with Loader(data, sequences=40, micro_sequences=40, seed=1) as loader:
        for step in range(steps):
            (micro,) = loader.step(step)
            loss = objective(network, micro.batch)
            optimizer.zero_grad()
            (loss.total / loss.count.clamp(min=1)).backward()
            optimizer.step()
    network.eval()


def train_with_noise(
    network: Network,
    data: DataSet,
    *,
    steps: int,
    rate: float,
    sampling_probability: float,
    noise_multiplier: float,
    clip: float = 1.0,
    seed: int = 5,
) -> None:
    """Abadi et al. (2016), record by record: Poisson batches, clipped gradients, noise."""
    objective = build_objective(OBJECTIVE, network)
    parameters: list[torch.Tensor] = [each for each in network.parameters() if each.requires_grad]
    draw = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(steps):
        total = [torch.zeros_like(each) for each in parameters]
        for index in np.flatnonzero(draw.random(len(data)) < sampling_probability):
            batch = data.collate([data.item(0, int(index))])
            gradients = torch.autograd.grad(objective(network, batch).total, parameters)
            norm = torch.stack([each.norm() for each in gradients]).norm()
            factor = min(1.0, clip / max(float(norm), 1e-12))
            torch._foreach_add_(total, gradients, alpha=factor)
        std = noise_multiplier * clip
        noise = [torch.empty_like(each).normal_(0, std, generator=generator) for each in total]
        torch._foreach_add_(total, noise)
        with torch.no_grad():
            torch._foreach_add_(parameters, total, alpha=-rate / (sampling_probability * len(data)))
    network.eval()
