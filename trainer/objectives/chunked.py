"""Cross entropy of a linear output layer, without the full matrix of logits.

The logits of N tokens over V entries take N x V numbers, and their softmax and its
gradient as many again: at 4,096 tokens and 50,000 entries 2.3 GB in float32. Here the
tokens are taken a chunk at a time, and the gradient of a chunk is computed while its
logits exist; only the sums and the gradients of the hidden states and of the matrix
are kept. The matrix products are the same three as in the plain way, and what lies
between them works on memory that is still in the cache.
The method is that of Liger Kernel (Hsu et al. 2024) and of "Cut your losses in
large-vocabulary language models" (Wijmans et al. 2025). torch's own
`F.linear_cross_entropy` has neither float32 losses under bfloat16 nor the unsmoothed
loss beside the smoothed one.

Invariants:
    - Losses are float32 sums; under autocast only the matrix products are bfloat16,
      and the gradient of the matrix adds up over the chunks in float32.
    - The gradient is that of `full_cross_entropy`, to rounding.
    - The gradients exist before `backward` and are consumed by it: a graph can be gone
      through once, and there are no second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100  # a label that is no target


class Sums(NamedTuple):
    """Sums over the targets: float32 `total` with gradient, float32 `plain`, int64 `correct`."""

    total: Tensor
    plain: Tensor
    correct: Tensor | None


def full_cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float, count_correct: bool
) -> Sums:
    """Return the cross entropy of logits that exist anyway.

    With smoothing s a target's distribution is 1 - s on itself plus s / C on each of the
    C classes (Szegedy et al. 2016).

    Args:
        logits: `[N, C]`, any floating type; N may be 0.
        targets: int64 `[N]`; -100 is no target.
        label_smoothing: s, in [0, 1).
        count_correct: whether to look for the highest logit.
    """
    scores = logits.float()
    logarithms = functional.log_softmax(scores, dim=-1)
    plain = functional.nll_loss(logarithms, targets, reduction="sum", ignore_index=IGNORED)
    total = plain
    if label_smoothing > 0:
        uniform = -logarithms.mean(dim=-1).masked_fill(targets == IGNORED, 0).sum()
        total = (1 - label_smoothing) * plain + label_smoothing * uniform
    correct = (scores.argmax(dim=-1) == targets).sum() if count_correct else None
    return Sums(total, plain.detach(), correct)


# A graph around it breaks here: `compiled` is what compiles the inside.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    label_smoothing: float,
    chunk_tokens: int,
    count_correct: bool,
    compiled: bool = False,
) -> Sums:
    """Return the cross entropy of `hidden @ weight.T + bias`, a chunk of tokens at a time.

    Args:
        hidden: `[N, D]`; N may be 0.
        weight: `[V, D]`, may be shared with an embedding.
        bias: `[V]` or None.
        targets: int64 `[N]`; -100 is no target.
        label_smoothing: as in `full_cross_entropy`.
        chunk_tokens: tokens whose logits exist at one time.
        count_correct: whether to look for the highest logit.
        compiled: fuse what happens between the matrix products with torch.compile.

    Raises:
        ValueError: there is not one target for each row.
    """
    if len(targets) != len(hidden):
        raise ValueError(f"{len(targets)} targets for {len(hidden)} hidden states")
    plan = _Plan(label_smoothing, chunk_tokens, count_correct, compiled, torch.is_grad_enabled())
    total, plain, correct = _Chunked.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, plan
    )
    return Sums(total, plain, correct if count_correct else None)


class _Plan(NamedTuple):
    """What does not depend on the tensors."""

    label_smoothing: float
    chunk_tokens: int
    count_correct: bool
    compiled: bool
    differentiate: bool


class _ScoreSums(NamedTuple):
    """Of one chunk: sums over its targets, and the gradient of its logits or None."""

    plain: Tensor
    uniform: Tensor
    correct: Tensor
    gradient: Tensor | None


class _Chunked(torch.autograd.Function):
    """Computes the sums and the gradients in the forward pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return total, plain and correct; keep the gradients that are needed."""
        hidden, weight, bias, targets, plan = inputs
        kind = hidden.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else hidden.dtype
        needed = tuple(plan.differentiate and need for need in ctx.needs_input_grad[:3])
        with torch.autocast(kind, enabled=False):
            work = _Work(hidden.to(dtype), weight.to(dtype), bias, needed)
            for start in range(0, len(hidden), plan.chunk_tokens):
                work.add(slice(start, start + plan.chunk_tokens), targets, plan)
        ctx.gradients = work.gradients
        ctx.types = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        smoothing = plan.label_smoothing
        total = (1 - smoothing) * work.plain + smoothing * work.uniform
        ctx.mark_non_differentiable(work.plain, work.correct)
        return total, work.plain, work.correct

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the kept gradients, in place: a copy of the matrix's would be large."""
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("a chunked cross entropy can be differentiated once only")
        ctx.gradients = None
        scaled = (
            None if gradient is None else gradient.mul_(outer[0]).to(dtype)
            for gradient, dtype in zip(gradients, ctx.types, strict=True)
        )
        return (*scaled, None, None)


class _Work:
    """The sums and the gradients so far, and the step that adds a chunk to them."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: tuple[bool, ...]
    ) -> None:
        self.hidden = hidden
        self.weight = weight
        self.bias = None if bias is None else bias.to(hidden.dtype)
        self.plain = torch.zeros((), device=hidden.device)
        self.uniform = torch.zeros((), device=hidden.device)
        self.correct = torch.zeros((), device=hidden.device, dtype=torch.int64)
        self.hidden_gradient = torch.empty_like(hidden) if needed[0] else None
        self.weight_gradient = _sum_like(weight) if needed[1] else None
        self.bias_gradient = _sum_like(bias) if needed[2] and bias is not None else None

    @property
    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of hidden, weight and bias; None where nobody needs one."""
        return self.hidden_gradient, self.weight_gradient, self.bias_gradient

    def add(self, rows: slice, targets: Tensor, plan: _Plan) -> None:
        """Add the tokens of some rows."""
        hidden = self.hidden[rows]
        scores = functional.linear(hidden, self.weight, self.bias)
        needed = any(gradient is not None for gradient in self.gradients)
        judge = _compiled_judge() if plan.compiled else _judge
        sums = judge(scores, targets[rows], plan, needed)
        self.plain += sums.plain
        self.uniform += sums.uniform
        self.correct += sums.correct
        gradient = sums.gradient
        if gradient is None:
            return
        if self.bias_gradient is not None:
            self.bias_gradient += gradient.sum(dim=0, dtype=torch.float32)
        if self.hidden_gradient is not None:
            torch.mm(gradient, self.weight, out=self.hidden_gradient[rows])
        if self.weight_gradient is not None:
            if gradient.dtype == torch.float32:
                self.weight_gradient.addmm_(gradient.t(), hidden)
            else:
                self.weight_gradient += gradient.t() @ hidden


def _sum_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, dtype=torch.float32)


def _judge(scores: Tensor, targets: Tensor, plan: _Plan, differentiate: bool) -> _ScoreSums:
    """Return a chunk's sums and the gradient of its logits `[c, V]`, which it may overwrite."""
    dtype, label_smoothing = scores.dtype, plan.label_smoothing
    scores = scores.float()
    if plan.compiled:
        # Fuses away; compiled code that changes its input writes it once more at the end.
        scores = scores.clone()
    valid = targets != IGNORED
    index = targets.clamp(min=0).unsqueeze(1)
    nothing = torch.zeros((), device=scores.device)
    correct = nothing.to(torch.int64)
    if plan.count_correct:
        correct = (scores.argmax(dim=-1) == targets).sum()
    scores.sub_(scores.amax(dim=-1, keepdim=True))
    picked = scores.gather(1, index).squeeze(1)
    average = scores.mean(dim=-1) if label_smoothing > 0 else picked
    partition = scores.exp_().sum(dim=-1)
    logarithm = partition.log()
    plain = (logarithm - picked).masked_fill(~valid, 0).sum()
    uniform = (logarithm - average).masked_fill(~valid, 0).sum() if label_smoothing > 0 else nothing
    if not differentiate:
        return _ScoreSums(plain, uniform, correct, None)
    # The gradient is softmax - target distribution, and 0 in rows without a target.
    scores.mul_((valid / partition).unsqueeze(1))
    if label_smoothing > 0:
        scores.sub_((valid * (label_smoothing / scores.shape[1])).unsqueeze(1))
    at_target = (valid * (1.0 - label_smoothing)).unsqueeze(1)
    if plan.compiled:
        # A comparison fuses with the rest; a scatter would make a pass of its own.
        classes = torch.arange(scores.shape[1], device=scores.device)
        scores = scores - torch.where(classes == index, at_target, 0.0)
    else:
        scores.scatter_add_(1, index, -at_target)
    return _ScoreSums(plain, uniform, correct, scores.to(dtype))


@cache
def _compiled_judge() -> Callable[..., _ScoreSums]:
    return torch.compile(_judge)
