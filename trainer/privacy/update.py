"""One private update of the weights.

The counterpart of `trainer.loop.update`, with the same result, so that the loop around it
does not know which of them it calls.

Invariants: an update is charged, and the charge is on the disk, before anything of it
touches the weights; noise is added once to every coordinate of the sum over all ranks
(`summed`); what the sum is divided by is public and the same for every update, however many
records were drawn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.distribution.group import Group
from trainer.distribution.wrap import release_weights
from trainer.errors import DivergenceError
from trainer.loop.batches import Autocast, count_tokens, to_device
from trainer.loop.interrupts import StopReason, stop_reason, stop_wish
from trainer.loop.randomness import seed_micro_batch
from trainer.loop.update import UpdateResult
from trainer.optimization.optimizers import Optimizers
from trainer.optimization.schedule import learning_rate_factor
from trainer.privacy.dropout import switch_dropout_off
from trainer.privacy.gradients import PerExampleGradients
from trainer.privacy.loader import PrivateLoader, PrivateMicroBatch
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.randomness import SecretGenerator
from trainer.privacy.releases import Releases
from trainer.privacy.summed import Summed
from trainer.recipe.schema import OptimizerOptions

# Figures that all ranks add up: total, plain, targets, right ones, tokens, two wishes to stop,
# and passes whose loss was no number.
_FIGURES = 8


class PrivateUpdater:
    """Makes private updates.

    Args:
        module: a `Step`, sharded or not.
        network: the one in it; its trainable weights move.
        gradients: sums clipped per-example gradients of these weights.
        optimizers: over the same weights.
        loader: draws the records.
        plan: everything that the claim rests on.
        releases: where each update is charged, on the first rank.
        group: the ranks.
        options: the schedule. `clip_norm` does not apply: clipping is the plan's.
        seed: the recipe's; never of draws of records, nor of noise.
        autocast: makes the context of a forward pass.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        network: nn.Module,
        gradients: PerExampleGradients,
        optimizers: Optimizers,
        loader: PrivateLoader,
        plan: PrivacyPlan,
        releases: Releases,
        group: Group,
        options: OptimizerOptions,
        seed: int,
        autocast: Autocast,
    ) -> None:
        self._module = module
        self._network = network
        self._gradients = gradients
        self._optimizers = optimizers
        self._loader = loader
        self._plan = plan
        self._releases = releases
        self._group = group
        self._options = options
        self._seed = seed
        self._autocast = autocast
        self._noise = SecretGenerator()

    def update(self, step: int, *, wants_stop: StopReason = "") -> UpdateResult:
        """Make the update number `step` (0 is the first).

        Raises:
            BudgetExhausted: the budget allows no further update; the weights are untouched.
            LedgerError: it could not be charged; the weights are untouched.
            DivergenceError: the sum is no number; it was charged, the weights are untouched.
        """
        # What a record adds must not depend on its place among others.
        switch_dropout_off(self._module)
        figures = torch.zeros(_FIGURES, dtype=torch.float64, device=self._group.device)
        figures[5:7] += torch.tensor(stop_wish(wants_stop), device=figures.device)
        # 1. Draw, secretly; 2. sum what each record contributes at most.
        for micro in self._loader.step(step):
            self._accumulate(step, micro, figures)
        # 3. One sum over the ranks.
        sums = Summed(self._gradients.take(), dict(self._network.named_parameters()), self._group)
        self._group.sum_(figures)
        # 4. Charge, durably, before anything is released.
        self._releases.charge(step)
        # 5. Noise, once.
        sums.add_noise(self._plan, self._noise)
        # 6. Divide by what is public.
        norm = sums.divide(self._plan.normalizer)
        if not math.isfinite(norm):
            raise DivergenceError(
                f"the noised sum of step {step + 1} is no number; the weights were left as they "
                "were. Lower optimizer.learning_rate and continue from the last checkpoint"
            )
        # 7. Move the weights.
        sums.give()
        self._optimizers.set_factor(learning_rate_factor(step, self._options, self._plan.steps))
        self._optimizers.step()
        self._optimizers.zero_grad()
        return self._result(figures, norm)

    def _accumulate(self, step: int, micro: PrivateMicroBatch, figures: Tensor) -> None:
        device = self._group.device
        seed_micro_batch(self._seed, step, micro.index, device)
        statistics = self._gradients.accumulate(
            to_device(micro.batch, device), micro.weights.to(device), autocast=self._autocast
        )
        # A pass without a backward pass leaves the weights of FSDP whole.
        release_weights(self._module)
        loss = torch.stack([part.double() for part in statistics.loss])
        # A record whose loss is no number adds nothing to the sum; nor may it take the figures of
        # the others from whoever watches the run.
        good = loss.isfinite().all()
        figures[:4] += torch.where(good, loss, torch.zeros_like(loss))
        figures[7] += ~good
        drawn = micro.weights > 0
        figures[4] += count_tokens({name: values[drawn] for name, values in micro.batch.items()})

    def _result(self, figures: Tensor, norm: float) -> UpdateResult:
        total, plain, targets, right, tokens, asked, late, bad = figures.tolist()
        # Of passes that all failed there is no loss to tell.
        divisor = math.nan if bad and not targets else max(targets, 1.0)
        return UpdateResult(
            loss=total / divisor,
            plain=plain / divisor,
            accuracy=right / divisor if right >= 0 and targets else None,
            tokens=int(tokens),
            learning_rate=self._optimizers.learning_rate,
            gradient_norm=norm,
            stop=stop_reason(asked, late),
        )
