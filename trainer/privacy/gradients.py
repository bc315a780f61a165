"""Sums of clipped per-example gradients, from one forward and one backward pass.

`accumulate` adds sum_i weights[i] * clip(gradient of example i) into float32 buffers;
`take` hands them out. Neither noise nor a division happens here.

Weights stay out of the backward pass altogether: hooks see each trained layer's input and
the gradient of its output (`watching`), norms come from those without writing every
example's gradient out (`factors`), and the clipped sum is a second product with them. So
one backward pass is enough, and it costs about what an ordinary one does.

Invariants:
    - What an example adds to all sums together has a norm of at most
      `clipping.clip_norm` times its weight.
    - An example whose gradient is no number adds nothing, and changes nothing for others.
    - A row of weight 0 adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.batch import IGNORED, Batch
from trainer.loop.batches import Autocast
from trainer.loop.step import StepLoss
from trainer.models.network import Network
from trainer.privacy.alignment import Alignment, examples_in
from trainer.privacy.clipping import Clipping
from trainer.privacy.errors import PrivacyError
from trainer.privacy.factors import Factor
from trainer.privacy.gradient_check import check_gradients
from trainer.privacy.watching import Watch


@dataclass(frozen=True, slots=True)
class ClipStatistics:
    """Figures of one micro-batch. They are not private: no report may show them unnoised.

    Attributes:
        examples: with a weight above 0.
        clipped: share of those whose gradient was made shorter.
        median_norm: of their gradients before clipping; 0 without examples.
        nonfinite: examples whose gradient was no number; they were left out.
        loss: of the rows with a weight above 0; detached.
    """

    examples: int
    clipped: float
    median_norm: float
    nonfinite: int
    loss: StepLoss


class PerExampleGradients:
    """Computes sums of clipped per-example gradients of a network's trainable weights.

    Args:
        step: gives the loss of a batch as a sum over its targets, such as `Step`; not
            wrapped by DDP, whose own sums of gradients have no place here.
        network: what is trained; parameters that are frozen now are left out for good.
        clipping: the bound.

    Raises:
        PrivacyError: a trainable weight for which no per-example gradient can be had, or
            products of matrices that are rounded to TF32, in which norms come out too small.

    Attributes:
        sums: float32, by the names of `network.named_parameters()`.
    """

    def __init__(
        self, step: Callable[[Batch], StepLoss], network: Network, clipping: Clipping
    ) -> None:
        if torch.get_float32_matmul_precision() != "highest":
            raise PrivacyError(
                "products of float32 matrices are rounded to fewer digits (TF32), with which a "
                "clip does not hold; call torch.set_float32_matmul_precision('highest'), and do "
                "not set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
            )
        self._step = step
        self._clipping = clipping
        self._watch = Watch(network)
        self._layers = _layers(list(self._watch.parameters))
        self.sums: dict[str, Tensor] = self._zeros()

    def accumulate(
        self, batch: Batch, weights: Tensor, *, autocast: Autocast = nullcontext
    ) -> ClipStatistics:
        """Add sum_i weights[i] * clip(gradient_i) to `sums`.

        Args:
            batch: on the network's device; examples along the first dimension.
            weights: float32 [rows] on that device, none below 0; 0 for rows that fill up.
            autocast: makes the context of the forward pass.

        Raises:
            PrivacyError: examples of the batch cannot be told apart in some layer, or
                there is not a weight for each of them.
        """
        examples = examples_in(batch)
        if weights.shape != (examples,):
            raise PrivacyError(f"{examples} examples and {list(weights.shape)} weights")
        loss, found = self._gradients(_without_fillers(batch, weights), autocast)
        with torch.no_grad():
            norms = self._norms(found, examples)
            factors = self._clipping.factors(norms)
            self._add(found, norms, factors * weights)
            return _statistics(norms, factors, weights > 0, loss)

    def take(self) -> dict[str, Tensor]:
        """Return the sums under the names of `network.named_parameters()`; start anew."""
        sums, self.sums = self.sums, self._zeros()
        return sums

    def check(self, batch: Batch) -> None:
        """Compare with autograd, and with other company, once, before training.

        Args:
            batch: two examples or more, on the network's device.

        Raises:
            PrivacyError: sums differ from autograd's (weights used beside their layers), or
                an example's gradient depends on other examples (batch statistics).
        """
        parameters = self._watch.parameters
        check_gradients(self._step, parameters, self._exact_sums, batch)

    def _gradients(self, batch: Batch, autocast: Autocast) -> tuple[StepLoss, dict[str, Factor]]:
        with self._watch.open(Alignment.of(batch)):
            with autocast():
                loss = self._step(batch)
            # Without a target, or with nothing trained on the way to it, there is none.
            if loss.total.requires_grad:
                loss.total.backward()  # type: ignore[no-untyped-call]
        return StepLoss(*(part.detach() for part in loss)), self._watch.take()

    def _norms(self, found: dict[str, Factor], examples: int) -> Tensor:
        """Return float32 [L, B], the norm of each layer's gradient for each example."""
        device = next(iter(self.sums.values())).device
        squares = torch.zeros(len(set(self._layers.values())), examples, device=device)
        for name, factor in found.items():
            squares[self._layers[name]] += factor.squared_norms()
        return squares.sqrt()

    def _add(self, found: dict[str, Factor], norms: Tensor, factors: Tensor) -> None:
        good = norms.isfinite().all(0)
        if not bool(good.all()):
            # Zero times what is no number is no number: such rows must not take part.
            kept = good.nonzero().squeeze(1)
            found = {name: factor.select(kept) for name, factor in found.items()}
            factors = factors[:, kept]
        for name, factor in found.items():
            factor.add_to(self.sums[name], factors[self._layers[name]])

    def _exact_sums(self, batch: Batch, weights: Tensor) -> dict[str, Tensor]:
        """Return weighted sums without clipping, under the names of the parameters."""
        _, found = self._gradients(batch, nullcontext)
        sums = self._zeros()
        with torch.no_grad():
            for name, factor in found.items():
                factor.add_to(sums[name], weights)
        return sums

    def _zeros(self) -> dict[str, Tensor]:
        return {
            name: torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
            for name, parameter in self._watch.parameters.items()
        }


def _without_fillers(batch: Batch, weights: Tensor) -> Batch:
    """Take the targets of rows of weight 0 away, so that no figure counts them."""
    labels = batch.get("labels")
    if labels is None:
        return batch
    fillers = (weights == 0).view(-1, *[1] * (labels.dim() - 1))
    return {**batch, "labels": labels.masked_fill(fillers, IGNORED)}


def _layers(names: list[str]) -> dict[str, int]:
    """Number the layers: the weights of one module, or of one adapter, are a layer."""
    owners = [name.rpartition(".")[0] for name in names]
    owners = [owner.removesuffix(".lora_down").removesuffix(".lora_up") for owner in owners]
    number = {owner: index for index, owner in enumerate(dict.fromkeys(owners))}
    return {name: number[owner] for name, owner in zip(names, owners, strict=True)}


def _statistics(norms: Tensor, factors: Tensor, counts: Tensor, loss: StepLoss) -> ClipStatistics:
    whole = torch.linalg.vector_norm(norms, dim=0)
    good = whole.isfinite() & counts
    shorter = (factors.amin(0) < 1) & good
    median = whole.where(good, torch.nan).nanmedian().nan_to_num()
    # One wait for the device.
    examples, kept, clipped, middle = torch.stack(
        [counts.sum(), good.sum(), shorter.sum(), median]
    ).tolist()
    return ClipStatistics(
        examples=int(examples),
        clipped=clipped / max(examples, 1),
        median_norm=middle,
        nonfinite=int(examples - kept),
        loss=loss,
    )
