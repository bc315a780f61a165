"""Time of one training step: our loop beside a plain loop of transformers and torch.

    python -m benchmarks.training_step [--rounds 7] [--seconds 5] [--threads 2]

Both train the same Llama-style decoder, in float32, from the same weights on the same
batches in the same order, with AdamW (fused, matrices decay and vectors do not), a
constant rate and gradients clipped to a norm of 1; both read the loss after every step.
- plain: LlamaForCausalLM(input_ids, labels=...).loss.backward(), clip_grad_norm_, step(),
  zero_grad(set_to_none=True); a batch is sliced out of a memory map of the tokens.
- casemate: `trainer.loop.update.Updater`, as `casemate train` runs it: the loader with its
  thread, the objective, the checks for numbers that are none, clipping, the optimizer.

They take turns in one process, so that whatever else the machine does falls on both: a
round is some seconds of one, then of the other, and who begins changes. A round's figure is
the median of its steps. What counts is the ratio of the two figures of a round: its median
over the rounds, and the smallest and largest. The losses of the two are compared as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from benchmarks import report
from trainer.data.loader import Loader
from trainer.data.order import item_at
from trainer.data.shard_writer import ShardWriter
from trainer.data.shards import ShardSet
from trainer.data.special import SpecialTokens
from trainer.data.text_dataset import WindowedText
from trainer.distribution.environment import Ranks
from trainer.distribution.group import Group, connect
from trainer.loop.step import Step
from trainer.loop.update import Updater
from trainer.models.decoder import Decoder, build_decoder
from trainer.objectives.build import build_objective
from trainer.optimization.optimizers import build_optimizer
from trainer.recipe.schema import ModelOptions, ObjectiveOptions, OptimizerOptions

SEED = 1337
# Steps before the clock starts: memory is allocated, the optimizer has its state.
WARM_UP = 5
FEWEST_STEPS = 3
NO_SPECIAL = SpecialTokens(pad=None, unknown=None, begin=None, end=None, mask=None, separator=None)
OPTIMIZER = OptimizerOptions(
    learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.1, clip_norm=1.0
)


@dataclass(frozen=True)
class Size:
    """A decoder and its batch."""

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int
    sequences: int


SIZES = (
    Size("char-shakespeare-cpu", 4, 128, 4, 65, 64, 12),
    Size("8k-vocabulary", 6, 256, 4, 8192, 256, 8),
    Size("32k-vocabulary", 6, 384, 6, 32_000, 256, 8),
)
TINY = (Size("tiny", 2, 32, 2, 256, 32, 4),)


def make_data(size: Size, folder: Path) -> WindowedText:
    """Write random tokens as a shard set, 20 times what one batch takes or more."""
    tokens = max(200_000, 20 * size.sequences * size.length)
    ids = np.random.default_rng(SEED).integers(size.vocabulary, size=tokens)
    with ShardWriter(
        folder, vocabulary_size=size.vocabulary, tokenizer_digest="0" * 64, shard_tokens=tokens
    ) as writer:
        writer.begin_document()
        writer.append(ids.astype(np.int64), tokens)
        writer.finish([])
    return WindowedText(
        ShardSet.open(folder), sequence_length=size.length, boundaries=False, seed=None, end=None
    )


def make_network(size: Size) -> Decoder:
    torch.manual_seed(SEED)
    options = ModelOptions(layers=size.layers, width=size.width, heads=size.heads)
    return build_decoder(
        options,
        vocabulary_size=size.vocabulary,
        context=size.length,
        special=NO_SPECIAL,
        labels=(),
    )


class Casemate:
    """Our loop, a step at a time."""

    def __init__(self, size: Size, data: WindowedText, group: Group) -> None:
        network = make_network(size)
        self.loader = Loader(
            data, sequences=size.sequences, micro_sequences=size.sequences, seed=SEED
        )
        self._updater = Updater(
            Step(network, build_objective(ObjectiveOptions(), network)),
            build_optimizer(network, OPTIMIZER, group.device),
            self.loader,
            group,
            OPTIMIZER,
            steps=1 << 30,
            seed=SEED,
            autocast=nullcontext,
        )

    def step(self, number: int) -> float:
        return self._updater.update(number).loss


class Plain:
    """The loop that one writes with transformers and torch alone."""

    def __init__(self, size: Size, data: WindowedText, folder: Path) -> None:
        self._size = size
        self._windows = len(data)
        self._tokens = np.memmap(folder / "shard-00000.tokens", dtype="<u2", mode="r")
        self.model = self._model(size)
        parameters = list(self.model.parameters())
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
                {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
            ],
            lr=OPTIMIZER.learning_rate,
            betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
            eps=OPTIMIZER.epsilon,
            fused=True,
        )
        self.model.train()

    @staticmethod
    def _model(size: Size) -> Any:
        """The stock class, with the weights that ours begins with."""
        network = make_network(size)
        config = network.core.config
        config._attn_implementation = "sdpa"
        model = LlamaForCausalLM(config)
        state = network.state_dict()
        weights = {name.removeprefix("core."): each for name, each in state.items()}
        weights["lm_head.weight"] = weights.pop("head.weight")
        model.load_state_dict(weights)
        return model

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        length, count = self._size.length, self._size.sequences
        rows = (item_at(SEED, self._windows, step * count + row)[1] for row in range(count))
        windows = np.stack([self._tokens[row * length : row * length + length + 1] for row in rows])
        tokens = torch.from_numpy(windows.astype(np.int64))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step(self, number: int) -> float:
        ids, labels = self._batch(number)
        # Given shifted labels, the class does not copy and shift logits or labels itself.
        loss = self.model(input_ids=ids, labels=labels, shift_labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


class Timed:
    """A loop that goes on from round to round."""

    def __init__(self, step: Callable[[int], float]) -> None:
        self._step = step
        self.losses: list[float] = []

    def once(self) -> float:
        """Make the next step; return its seconds."""
        began = time.perf_counter()
        self.losses.append(self._step(len(self.losses)))
        return time.perf_counter() - began

    def round(self, seconds: float) -> float:
        """Make steps for some seconds; return the median of their seconds."""
        taken: list[float] = []
        while sum(taken) < seconds or len(taken) < FEWEST_STEPS:
            taken.append(self.once())
        return statistics.median(taken)


def measure(size: Size, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure both loops at one size."""
    with (
        tempfile.TemporaryDirectory() as name,
        connect(Ranks(), torch.device("cpu"), 15.0) as group,
    ):
        folder = Path(name) / "shards"
        data = make_data(size, folder)
        ours = Casemate(size, data, group)
        with ours.loader:
            loops = {"casemate": Timed(ours.step)}
            loops["plain"] = Timed(Plain(size, data, folder).step)
            times = alternate(loops, rounds, seconds)
    row = summarize(size, times)
    both = zip(loops["casemate"].losses, loops["plain"].losses, strict=False)
    row["largest_difference_of_losses"] = float(f"{max(abs(a - b) for a, b in both):.1e}")
    return row


def alternate(loops: dict[str, Timed], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the seconds of a step of each loop in each round."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        for _ in range(WARM_UP):
            loop.once()
    for number in range(rounds):
        order = list(loops) if number % 2 else list(reversed(loops))
        for name in order:
            times[name].append(loops[name].round(seconds))
    return times


def summarize(size: Size, times: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(times["casemate"], times["plain"], strict=True)]
    tokens = size.sequences * size.length
    row: dict[str, Any] = {
        "size": size.name,
        "layers": size.layers,
        "width": size.width,
        "vocabulary": size.vocabulary,
        "sequence_length": size.length,
        "sequences": size.sequences,
    }
    for name, found in times.items():
        middle = statistics.median(found)
        row[name] = {
            "milliseconds": round(middle * 1e3, 2),
            "from": round(min(found) * 1e3, 2),
            "to": round(max(found) * 1e3, 2),
            "tokens_per_second": round(tokens / middle),
        }
    row["casemate_to_plain"] = {
        "median": round(statistics.median(ratios), 3),
        "from": round(min(ratios), 3),
        "to": round(max(ratios), 3),
    }
    return row


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one loop in a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tiny", action="store_true", help="a small size; writes no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = [round(value, 2) for value in os.getloadavg()]
    rows = []
    for size in TINY if options.tiny else SIZES:
        row = measure(size, options.rounds, options.seconds)
        ours, plain, ratio = row["casemate"], row["plain"], row["casemate_to_plain"]
        print(
            f"{size.name:<22} casemate {ours['milliseconds']:8.2f} ms   "
            f"plain {plain['milliseconds']:8.2f} ms   ratio {ratio['median']:.3f} "
            f"({ratio['from']:.3f} to {ratio['to']:.3f})   "
            f"{ours['tokens_per_second']:,} tokens/s",
            flush=True,
        )
        rows.append(row)
    if options.tiny:
        return
    result = {
        "threads": options.threads,
        "rounds": options.rounds,
        "seconds_a_round": options.seconds,
        "load_average_before": load,
        "rows": rows,
    }
    print("wrote", report.write("training_step", result, report.TRAINING_PACKAGES))


if __name__ == "__main__":
    main()
