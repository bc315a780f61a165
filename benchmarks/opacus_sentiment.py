"""SST-2 finetuned privately by stock opacus: the peer of `benchmarks.private_sentiment`.

    python -m benchmarks.opacus_sentiment RECIPE [KEY=VALUE ...] --seconds S --evaluate FILE

The same network, LoRA matrices, optimizer, schedule, expected batch and delta as the
recipe's, trained as opacus's guide says: `make_private`, Poisson sampling, flat clipping,
`BatchMemoryManager`, the noise multiplier of `get_noise_multiplier` for the very number of
updates. That number is what fits into the seconds given, measured on a network that is
thrown away, and no more than the recipe's. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from opacus import PrivacyEngine
from opacus.accountants.utils import get_noise_multiplier
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainer.data.assemble import build_data, evaluation_data
from trainer.data.batch import DataSet, Item
from trainer.data.tokenization import Tokenizer
from trainer.evaluation.network import evaluate_network
from trainer.loop.assembly import make_network
from trainer.recipe.parse import load_recipe
from trainer.recipe.schema import Recipe

_TRIAL_BATCHES = 8
# Room in the seconds for what a trial does not show: the last update, starting up.
_SHARE = 0.97


class Examples(Dataset[Item]):
    """A data set of the trainer's, as torch knows them."""

    def __init__(self, data: DataSet) -> None:
        self.items = [data.item(0, index) for index in range(len(data))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]


class Run:
    """One network in opacus's hands."""

    def __init__(self, recipe: Recipe, network: nn.Module, data: DataSet, noise: float) -> None:
        self.recipe = recipe
        trained = [p for p in network.parameters() if p.requires_grad]
        options = recipe.optimizer
        optimizer = torch.optim.AdamW(
            trained,
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
        )
        examples = Examples(data)
        loader = DataLoader(
            examples,
            batch_size=recipe.batch.sequences,
            collate_fn=data.collate,
        )
        self.module, self.optimizer, self.loader = PrivacyEngine(accountant="prv").make_private(
            module=network,
            optimizer=optimizer,
            data_loader=loader,
            noise_multiplier=noise,
            max_grad_norm=recipe.privacy.clip_norm,
            poisson_sampling=True,
        )

    def train(self, *, steps: int | None = None, batches: int | None = None) -> int:
        """Train for some updates, or some pieces of one; return the examples seen."""
        self.module.train()
        seen = made = 0
        while True:
            with BatchMemoryManager(
                data_loader=self.loader,
                max_physical_batch_size=self.recipe.batch.micro_sequences,
                optimizer=self.optimizer,
            ) as pieces:
                for number, batch in enumerate(pieces, start=1):
                    seen += self._piece(batch, made, steps)
                    made += not self.optimizer._is_last_step_skipped
                    if made == steps or number == batches:
                        return seen

    def _piece(self, batch: dict[str, Tensor], made: int, steps: int | None) -> int:
        for group in self.optimizer.param_groups:
            left = 1.0 if steps is None else 1 - made / steps
            group["lr"] = self.recipe.optimizer.learning_rate * left
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.module(batch), batch["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return len(batch["labels"])


def seconds_an_example(recipe: Recipe, network: nn.Module, data: DataSet) -> float:
    """Measure a few pieces of a batch on a network that is thrown away."""
    trial = Run(recipe, copy.deepcopy(network), data, 1.0)
    trial.train(batches=2)
    began = time.perf_counter()
    seen = trial.train(batches=_TRIAL_BATCHES)
    return (time.perf_counter() - began) / seen


def run(recipe: Recipe, seconds: float, folder: Path, evaluate: Path) -> dict[str, Any]:
    """Train for at most some seconds; return the figures."""
    base = Tokenizer.load(Path(recipe.model.source))
    data = build_data(recipe, folder, base, lambda _: None)
    network = make_network(recipe, data)
    units, sequences = len(data.train), recipe.batch.sequences
    possible = seconds * _SHARE / (seconds_an_example(recipe, network, data.train) * sequences)
    steps = min(recipe.run.steps, int(possible))
    noise = get_noise_multiplier(
        target_epsilon=recipe.privacy.epsilon,
        target_delta=recipe.privacy.delta or 1 / (2 * units),
        sample_rate=sequences / units,
        steps=steps,
        accountant="prv",
    )
    torch.manual_seed(recipe.run.seed)
    real = Run(recipe, network, data.train, noise)
    began = time.perf_counter()
    seen = real.train(steps=steps)
    taken = time.perf_counter() - began
    tests = evaluation_data(
        [str(evaluate)],
        objective=recipe.objective,
        data=recipe.data,
        tokenizer=base,
        labels=network.labels,
        folder=folder / "evaluation",
    )
    found = evaluate_network(network, recipe.objective, tests, device=torch.device("cpu"))
    metrics = found.to_dict()
    return {
        "accuracy": metrics["metrics"]["accuracy"],
        "accuracy_95_percent": metrics["intervals"]["accuracy"],
        "steps": steps,
        "noise_multiplier": noise,
        "seconds": taken,
        "examples": seen,
    }


def main() -> None:
    """Run opacus once and print what it gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--evaluate", type=Path, required=True)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.words).recipe
    with tempfile.TemporaryDirectory(prefix="casemate-opacus-") as scratch:
        found = run(recipe, options.seconds, Path(scratch), options.evaluate)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
