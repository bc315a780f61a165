"""What a private run takes of time: from a pass that is made here, not from a formula.

A private pass costs more than an ordinary one by what depends on layers, adapters and
lengths, so one is made, of records of full length and of no meaning, with the network's
own shapes. Where even one record would take too long, the operations of an ordinary pass
are divided by the speed of a matrix product, and the basis says so.

Nothing of the data enters: the figures may be shown to anybody.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Final

import torch

from trainer.data.batch import IGNORED, Batch
from trainer.loop.batches import Autocast
from trainer.models.network import Network
from trainer.privacy.gradients import PerExampleGradients
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.randomness import SecretGenerator

# Noise that is drawn to tell how fast it is.
_PROBE_VALUES: Final = 1 << 16
# Of masked text, one token of so many is a target.
_MASKED_EVERY: Final = 7


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run takes.

    Attributes:
        basis: "measured", or "computed" from operations.
        rows: records of the pass that was measured; of a computed one, 1.
        pass_seconds: of that pass.
        noise_seconds: of the noise of one update.
        update_seconds: of an update of the expected size.
        seconds: of the whole run.
    """

    basis: str
    rows: int
    pass_seconds: float
    noise_seconds: float
    update_seconds: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


def timing(
    plan: PrivacyPlan, *, basis: str, rows: int, pass_seconds: float, trained: int, world: int = 1
) -> Timing:
    """Return the time of a run from that of one pass.

    Args:
        plan: says how many records and updates.
        basis: "measured" or "computed".
        rows: records of the pass.
        pass_seconds: of it.
        trained: weights that get noise.
        world: ranks that share the records.
    """
    records = plan.expected_batch * plan.contributions
    noise = noise_seconds(plan, trained)
    update = records / world / rows * pass_seconds + noise
    return Timing(basis, rows, pass_seconds, noise, update, update * plan.steps)


def noise_seconds(plan: PrivacyPlan, values: int) -> float:
    """Return the seconds that so many values of noise take here."""
    from trainer.privacy.noise import add_noise_

    probe = min(values, _PROBE_VALUES)
    began = time.perf_counter()
    add_noise_(
        {"all": torch.zeros(probe)},
        mode=plan.noise,
        noise_multiplier=plan.noise_multiplier,
        sensitivity=plan.sensitivity,
        generator=SecretGenerator(),
    )
    return (time.perf_counter() - began) * values / max(probe, 1)


def time_pass(
    gradients: PerExampleGradients, batch: Batch, device: torch.device, autocast: Autocast
) -> float:
    """Return the seconds of one pass, after one to warm up; its sums are thrown away.

    Every rank of a sharded network calls it. The random state is as it was.
    """
    weights = torch.ones(len(batch["input_ids"]), device=device)
    seconds = math.inf
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for _ in range(2):
            began = time.perf_counter()
            # Its figures wait for the device.
            gradients.accumulate(batch, weights, autocast=autocast)
            seconds = time.perf_counter() - began
    gradients.take()
    return seconds


def meaningless_batch(
    network: Network, kind: str, rows: int, length: int, device: torch.device
) -> Batch:
    """Return records of full length that say nothing, as an objective takes them.

    Args:
        network: what they are for.
        kind: of the objective.
        rows: B.
        length: T.
        device: where they go.
    """
    # Not random: nobody else's draws may depend on an estimate.
    ids = torch.arange(rows * length).view(rows, length) % max(network.vocabulary_size - 8, 1)
    # Past the special tokens, where there is room.
    ids = (ids + 8) % network.vocabulary_size
    batch: Batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    classes = max(len(network.labels), 1)
    if kind == "classification":
        batch["labels"] = torch.arange(rows) % classes
    elif kind == "tagging":
        batch["labels"] = ids % classes
    elif kind == "masked":
        batch["labels"] = torch.where(ids % _MASKED_EVERY == 0, ids, IGNORED)
    else:
        batch["labels"] = ids.roll(-1, 1)
        if kind == "next-token":
            del batch["attention_mask"]
        else:
            batch["decoder_input_ids"] = ids
    return {name: values.to(device) for name, values in batch.items()}
