"""What speed a graph would have on another machine: timed here, and scaled by a model.

    there = products(there) + rest(here) * float work(here) / float work(there)
    rest(here) = seconds measured here - products(here)
    products(machine) = max(products / what its cores multiply, bytes / what its memory gives)

`products` is a roofline over the products by constant matrices (Williams, Waterman and Patterson,
"Roofline", 2009). What a core multiplies in a second depends on its instructions and on the
kind of products: in float, in 8 bits as whole matrices, or by blocks that are unpacked first.
The rest of a run (attention, norms, activations) is float work, and scales as such.

So a machine like this one gets what was measured, a machine with twice the cores up to twice
that, and one without VNNI less of what 8 bits gain here. It ranks formats; times may be off by a
factor of two. The rates of `x86-64-v4-vnni` were measured on a machine whose two hardware
threads share a core; the others follow from instructions a cycle at usual clocks, and were checked
on no such machine.

Limit: quality is that of this machine's kernels. A plan with 8-bit weights that uses all 8 bits
saturates where there is no VNNI, so plans for such targets spare a bit, and that plan is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import onnx

from compiler.onnx_quantize.plan import BLOCKS, DYNAMIC_INT8, STATIC_INT8, OnnxPlan
from compiler.onnx_quantize.sites import MATMUL, find_sites
from compiler.passes.graph import constants
from compiler.progress import Progress
from compiler.targets.target import Target
from compiler.tune.bench import Bench
from compiler.tune.candidate import Candidate, Speed
from compiler.tune.predict import OVERLAP, Predictor

# 10^9 products a second and core: in float, in 8 bits, by blocks.
RATES: Final[Mapping[str | None, tuple[float, float, float]]] = MappingProxyType(
    {
        None: (6.0, 6.0, 4.0),
        "x86-64-v2": (10.0, 20.0, 8.0),
        "x86-64-v3": (40.0, 70.0, 30.0),
        "x86-64-v4-vnni": (50.0, 190.0, 64.0),
        "armv8.2-dotprod": (16.0, 50.0, 25.0),
        "armv8.6-i8mm": (25.0, 110.0, 50.0),
    }
)
# Tiles multiply far more bytes in a cycle; kernels reach a part of it.
_TILES: Final = "amx_int8"
TILES_GAIN: Final = 2.5
# Less of a run than this is not worth another core: handing it out takes as long.
_LEAST_SHARE: Final = 100e6
_FLOAT_BYTES: Final = 4.0
_FLOAT, _WHOLE, _BLOCKWISE = range(3)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run of a graph multiplies and reads.

    Attributes:
        products: for each token: in float, in 8 bits, by blocks.
        matrix_bytes: of the matrices, read once a run.
    """

    products: tuple[float, float, float]
    matrix_bytes: float


def work_of(shapes: Mapping[str, tuple[int, int]], uses: Sequence[str], plan: OnnxPlan) -> Work:
    """Return the work of a graph in the form that a plan gives it.

    Args:
        shapes: of the float graph's constant matrices, by name.
        uses: the name of the matrix of each product, in order.
        plan: how the graph is stored and multiplied.
    """
    if not uses:
        # Only matrices too small to count: it is all float work of one core.
        return Work((1.0, 0.0, 0.0), 0.0)
    kind = {DYNAMIC_INT8: _WHOLE, STATIC_INT8: _WHOLE, BLOCKS: _BLOCKWISE}.get(plan.kind, _FLOAT)
    # A scale of 4 bytes stands beside each block.
    narrow = {_WHOLE: 1.0, _BLOCKWISE: plan.bits / 8 + 4 / plan.block}.get(kind, _FLOAT_BYTES)
    products = [0.0, 0.0, 0.0]
    for name in uses:
        rows, columns = shapes[name]
        products[_FLOAT if name in plan.excluded else kind] += rows * columns
    size = sum(
        rows * columns * (_FLOAT_BYTES if name in plan.excluded else narrow)
        for name, (rows, columns) in shapes.items()
        if name in uses
    )
    return Work((products[0], products[1], products[2]), size)


def products_seconds(work: Work, target: Target, tokens: int) -> float:
    """Return what the products of a run over so many tokens take by the model, in seconds."""
    plain, whole, blockwise = RATES[target.level]
    whole *= TILES_GAIN if _TILES in target.instructions else 1.0
    times = zip(work.products, (plain, whole, blockwise), strict=True)
    one_core = tokens * sum(count / (rate * 1e9) for count, rate in times)
    reading = work.matrix_bytes / (target.bandwidth_gb_s * 1e9 * OVERLAP)
    return max(one_core / _useful_cores(work, target, tokens), reading)


def _useful_cores(work: Work, target: Target, tokens: int) -> float:
    return min(target.cores, max(1.0, tokens * sum(work.products) / _LEAST_SHARE))


def _float_rate(work: Work, target: Target, tokens: int) -> float:
    return RATES[target.level][_FLOAT] * _useful_cores(work, target, tokens)


def scaled(speed: Speed, work: Work, here: Target, there: Target) -> Speed:
    """Return a speed measured `here` as it would be `there`.

    Args:
        speed: with rates "encode@BxL", B texts of L tokens.
        work: of the graph that was timed.
        here, there: the machine that measured, with as many cores as threads were used; and
            the target.
    """
    rates = {}
    for name, rate in speed.rates.items():
        batch, length = map(int, name.partition("@")[2].split("x"))
        tokens, measured = batch * length, batch / rate
        modelled = products_seconds(work, here, tokens)
        # A run may be faster than the model has it; then it is all products.
        share = min(1.0, measured / modelled)
        rest = measured - share * modelled
        slower = _float_rate(work, here, tokens) / _float_rate(work, there, tokens)
        rates[name] = batch / (share * products_seconds(work, there, tokens) + rest * slower)
    return replace(speed, rates=rates, load_seconds=None, predicted=True)


def onnx_predictor(bench: Bench, graph: Path, here: Target, there: Target) -> Predictor:
    """Return what times a bench's candidates here and scales the speeds to a target.

    Args:
        bench: that measures.
        graph: the float graph that candidates are made of.
        here, there: as for `scaled`.
    """
    model = onnx.load(graph)
    uses = [site.tensor for site in find_sites(model) if site.kind == MATMUL]
    known = constants(model.graph)
    shapes = {name: (known[name].dims[0], known[name].dims[1]) for name in set(uses)}

    def predict(candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
        speeds = bench.speeds(candidates, progress)
        return [
            scaled(speed, work_of(shapes, uses, OnnxPlan.from_dict(one.plan)), here, there)
            for one, speed in zip(candidates, speeds, strict=True)
        ]

    return predict
