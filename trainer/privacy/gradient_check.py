"""A proof on one batch that per-example gradients are what they claim to be.

    1. Their sum is autograd's gradient of the summed loss. It is not where a weight is
       used beside its layer (a fused loss, a tied matrix that is read as a tensor).
    2. An example's gradient is the same whoever shares its batch. It is not with batch
       statistics, in-batch negatives, or experts whose capacity the batch shares.

Dropout is the same in all passes: each starts from the same random state.

It refuses, by that name, examples whose gradient is no number: they would show nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from trainer.data.batch import Batch
from trainer.loop.step import StepLoss
from trainer.privacy.alignment import examples_in
from trainer.privacy.errors import PrivacyError

# Share of the whole gradient's norm that rounding may account for.
_TOLERANCE = 1e-3

Sums = Callable[[Batch, Tensor], dict[str, Tensor]]


def check_gradients(
    step: Callable[[Batch], StepLoss],
    parameters: Mapping[str, nn.Parameter],
    sums: Sums,
    batch: Batch,
) -> None:
    """Check both claims of the module's docstring.

    Args:
        step: gives the summed loss of a batch.
        parameters: the trainable weights by name.
        sums: weighted sums of unclipped per-example gradients, by name.
        batch: two examples or more.

    Raises:
        PrivacyError: one of them does not hold, or cannot be seen: there are too few examples,
            or their gradients are no numbers.
    """
    examples = examples_in(batch)
    if examples < 2:
        raise PrivacyError("whether examples are independent needs two of them to see")
    device = next(iter(parameters.values())).device
    ones = torch.ones(examples, device=device)
    with _same_randomness(device) as again:
        expected = _by_autograd(step, parameters, batch)
        _require_numbers(expected)
        again()
        found = sums(batch, ones)
        again()
        first = torch.zeros_like(ones)
        first[0] = 1
        alone = sums(batch, first)
        again()
        other = sums(
            {name: _first_repeated(values, examples) for name, values in batch.items()}, first
        )
    _require_same(
        expected,
        {name: _over_ranks(values, parameters[name]) for name, values in found.items()},
        "is used beside its layer (a fused loss, or a tie), so that it has no gradient of each "
        "example; set objective.softmax to 'full', untie it or freeze it",
    )
    _require_same(
        alone,
        other,
        "has a gradient of an example that changes with other examples of the batch (batch "
        "statistics or in-batch negatives); such a model cannot be trained privately",
    )


def _by_autograd(
    step: Callable[[Batch], StepLoss], parameters: Mapping[str, nn.Parameter], batch: Batch
) -> dict[str, Tensor]:
    """Return autograd's gradients, whole; where ranks hold shards, summed over the ranks."""
    total = step(batch).total
    wanted: list[Tensor | None]
    if not any(isinstance(parameter.data, DTensor) for parameter in parameters.values()):
        wanted = list(torch.autograd.grad(total, list(parameters.values()), allow_unused=True))
    else:
        # FSDP gathers and sums around a backward pass, and around nothing else.
        total.backward()  # type: ignore[no-untyped-call]
        wanted = [parameter.grad for parameter in parameters.values()]
        for parameter in parameters.values():
            parameter.grad = None
    return {
        name: _whole(gradient, parameter)
        for (name, parameter), gradient in zip(parameters.items(), wanted, strict=True)
    }


def _whole(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    if gradient is None:
        return torch.zeros(parameter.shape, device=parameter.device)
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def _over_ranks(values: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return a rank's own values; where ranks hold shards of the weight, the sum over ranks."""
    if not isinstance(parameter.data, DTensor):
        return values
    mesh = parameter.data.device_mesh
    return DTensor.from_local(values, mesh, [Partial()], run_check=False).full_tensor()


def _first_repeated(values: Tensor, examples: int) -> Tensor:
    """Return a tensor whose every row is the first, where it has a row for each example."""
    if values.dim() == 0 or len(values) != examples:
        return values
    return values[:1].expand_as(values).contiguous()


def _require_numbers(gradients: Mapping[str, Tensor]) -> None:
    """Refuse gradients that are no numbers; the same on every rank, since they are whole."""
    for name, values in gradients.items():
        if not bool(values.isfinite().all()):
            raise PrivacyError(
                f"before anything was learned, the gradient of {name} is no number for the first "
                "records: the weights to begin with (model.source) hold numbers that are none, or "
                "far too large. Begin with others"
            )


def _require_same(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], problem: str
) -> None:
    largest = max(float(torch.linalg.vector_norm(each)) for each in expected.values())
    for name, values in expected.items():
        difference = float(torch.linalg.vector_norm(values - found[name]))
        # Written so that what is no number is a difference.
        if not difference <= _TOLERANCE * largest:
            raise PrivacyError(f"{name} {problem}")


@contextmanager
def _same_randomness(device: torch.device) -> Iterator[Callable[[], None]]:
    """Give a way back to the random state of now, which also holds afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        cpu = torch.get_rng_state()
        gpu = [torch.cuda.get_rng_state(each) for each in devices]

        def again() -> None:
            torch.set_rng_state(cpu)
            for each, state in zip(devices, gpu, strict=True):
                torch.cuda.set_rng_state(state, each)

        yield again
