"""Time of one training step: our loop beside a plain loop of transformers and torch.

    python -m benchmarks.training_step [--seconds 60] [--threads 2]

Both train the same Llama-style decoder, in float32, from the same weights on the same
batches in the same order, with AdamW (fused, matrices decay and vectors do not), a
constant rate and gradients clipped to a norm of 1; both read the loss after every step.
- plain: LlamaForCausalLM(input_ids, labels=...).loss.backward(), clip_grad_norm_, step(),
  zero_grad(set_to_none=True); a batch is sliced out of a memory map of the tokens.
- casemate: `trainer.loop.update.Updater`, as `casemate train` runs it: the loader with its
  thread, the objective, the checks for numbers that are none, clipping, the optimizer.

They take turns in one process, half a second each (one step at least), so that whatever
else the machine does falls on both. A turn's figure is the median of its steps; what counts
is the ratio of a turn of ours to the turn of the plain loop beside it: the median over all
such pairs, and the quartiles. Beside the seconds by the clock stand those that the
processor spent, of all threads, the loader's too, which say more where the machine was not
quiet. The losses of the two are compared as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
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
TURN_SECONDS = 0.5
FEWEST_PAIRS = 2
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


@dataclass(frozen=True)
class Turn:
    """Of some steps in a row, seconds of a step: by the clock, and of the processor."""

    clock: float
    processor: float


class Timed:
    """A loop that goes on from turn to turn."""

    def __init__(self, step: Callable[[int], float]) -> None:
        self._step = step
        self.losses: list[float] = []
        self.turns: list[Turn] = []

    def once(self) -> float:
        """Make the next step; return its seconds."""
        began = time.perf_counter()
        self.losses.append(self._step(len(self.losses)))
        return time.perf_counter() - began

    def turn(self) -> None:
        """Make steps for half a second and note their figures."""
        taken: list[float] = []
        used = time.process_time()
        while sum(taken) < TURN_SECONDS:
            taken.append(self.once())
        used = time.process_time() - used
        self.turns.append(Turn(statistics.median(taken), used / len(taken)))


def measure(size: Size, seconds: float) -> dict[str, Any]:
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
            take_turns(loops, seconds)
    row = summarize(size, {name: loop.turns for name, loop in loops.items()})
    both = zip(loops["casemate"].losses, loops["plain"].losses, strict=False)
    row["largest_difference_of_losses"] = float(f"{max(abs(a - b) for a, b in both):.1e}")
    return row


def take_turns(loops: dict[str, Timed], seconds: float) -> None:
    """Let the loops take turns for so many seconds; who begins changes."""
    for loop in loops.values():
        for _ in range(WARM_UP):
            loop.once()
    began, pairs = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or pairs < FEWEST_PAIRS:
        for name in list(loops) if pairs % 2 else list(reversed(loops)):
            loops[name].turn()
        pairs += 1


def quartiles(values: Sequence[float], digits: int, scale: float = 1.0) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    found = {"median": middle, "from": low, "to": high}
    return {name: round(value * scale, digits) for name, value in found.items()}


def summarize(size: Size, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    pairs = list(zip(turns["casemate"], turns["plain"], strict=True))
    tokens = size.sequences * size.length
    row: dict[str, Any] = {
        "size": size.name,
        "layers": size.layers,
        "width": size.width,
        "vocabulary": size.vocabulary,
        "sequence_length": size.length,
        "sequences": size.sequences,
    }
    for name, found in turns.items():
        clock = [turn.clock for turn in found]
        row[name] = {
            "milliseconds": quartiles(clock, 2, 1e3),
            "processor_milliseconds": quartiles([turn.processor for turn in found], 2, 1e3),
            "tokens_per_second": round(tokens / statistics.median(clock)),
        }
    row["pairs"] = len(pairs)
    row["casemate_to_plain"] = quartiles([a.clock / b.clock for a, b in pairs], 3)
    row["casemate_to_plain_processor"] = quartiles([a.processor / b.processor for a, b in pairs], 3)
    return row


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of both loops at one size")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tiny", action="store_true", help="a small size; writes no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = [round(value, 2) for value in os.getloadavg()]
    rows = []
    for size in TINY if options.tiny else SIZES:
        row = measure(size, options.seconds)
        ours, plain = row["casemate"], row["plain"]
        ratio, used = row["casemate_to_plain"], row["casemate_to_plain_processor"]
        print(
            f"{size.name:<20} casemate {ours['milliseconds']['median']:8.2f} ms   "
            f"plain {plain['milliseconds']['median']:8.2f} ms   ratio {ratio['median']:.3f} "
            f"({ratio['from']:.3f} to {ratio['to']:.3f})   of the processor {used['median']:.3f} "
            f"({used['from']:.3f} to {used['to']:.3f})   {row['pairs']} pairs",
            flush=True,
        )
        rows.append(row)
    if options.tiny:
        return
    result = {
        "threads": options.threads,
        "seconds_a_size": options.seconds,
        "turn_seconds": TURN_SECONDS,
        "load_average_before": load,
        "rows": rows,
    }
    print("wrote", report.write("training_step", result, report.TRAINING_PACKAGES))


if __name__ == "__main__":
    main()
