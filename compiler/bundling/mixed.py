"""An encoder in 8 bits with the tensors in float that the promise cannot do without.

Each tensor is quantized alone and the outputs are compared; then as few of the worst as keep
the promise are left in float, found by halving.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compiler.bundling.judging import EncoderJudge
from compiler.bundling.reference import Reference
from compiler.errors import QuantizationError, RuinedError
from compiler.onnx_quantize.plan import OnnxPlan
from compiler.onnx_quantize.quantize import quantize_onnx
from compiler.onnx_quantize.sensitivity import mixed_plan, rank_sensitivity
from compiler.progress import Progress, part
from compiler.tune.candidate import Quality
from compiler.tune.promise import Promise

# Every tensor is run once on these; what they say of the order is enough.
_RANKED_BATCHES: Final = 2


@dataclass(frozen=True, slots=True)
class Mixed:
    """A graph of which a part stayed in float.

    Attributes:
        plan: its `excluded` names what stayed in float.
        tensors: how many could have been quantized.
        quality: against the reference.
    """

    plan: OnnxPlan
    tensors: int
    quality: Quality


def mixed_form(
    reference: Reference, plan: OnnxPlan, out: Path, promise: Promise, progress: Progress
) -> Mixed | None:
    """Write the graph with the fewest tensors in float that keeps the promise to `out`.

    Args:
        reference: the float graph, with inputs.
        plan: what breaks the promise; needs no calibration.
        out: the file; replaced if it is there.
        promise: to keep.
        progress: told how far it is.

    Returns:
        What was made; None where not even one tensor may be quantized, or none can be alone.
    """
    judge = EncoderJudge(reference)

    def accept(path: Path) -> bool:
        try:
            return not promise.broken(judge.quality(path))
        except RuinedError:
            return False

    ranked = part(progress, 0.0, 0.6)
    try:
        ranking = rank_sensitivity(
            reference.path, plan, reference.feeds[:_RANKED_BATCHES], progress=ranked
        )
        progress("looking for the tensors to leave in float", 0.6)
        chosen = mixed_plan(reference.path, plan, ranking, accept, out.parent)
    except QuantizationError:
        return None
    if chosen is None:
        return None
    quantize_onnx(reference.path, out, chosen)
    return Mixed(chosen, len(ranking), judge.quality(out))
