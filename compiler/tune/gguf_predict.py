"""What speed a GGUF model would have on another machine: a roofline, and no more.

A token needs each weight once: decoding for few clients waits for memory, for many (and
for prompts) for arithmetic. The time of a step is the longer of the two (Williams, Waterman
and Patterson, "Roofline", 2009). What a core computes depends on its instructions, and on
the format: some unpack slowly. The figures below are what llama.cpp was seen to reach, not
makers' peaks; they rank formats well and times within a factor of about two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from compiler.llama.gguf_file import Tensor, open_gguf
from compiler.llama.plan import EMBEDDING, is_tied
from compiler.progress import Progress
from compiler.targets.target import Target
from compiler.tune.bench import Bench
from compiler.tune.candidate import Candidate, Speed
from compiler.tune.predict import OVERLAP, Predictor

# 10^9 products of bytes a second and core, as seen in prompts of Q4_0 models.
_PRODUCTS: Final[Mapping[str | None, float]] = MappingProxyType(
    {
        None: 4.0,
        "x86-64-v2": 8.0,
        "x86-64-v3": 24.0,
        "x86-64-v4-vnni": 48.0,
        "armv8.2-dotprod": 15.0,
        "armv8.6-i8mm": 35.0,
    }
)
# How much longer a product takes than in Q4_0, whose rows are repacked for these kernels.
_COSTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "Q4_0": 1.0,
        "Q8_0": 1.0,
        "IQ4_NL": 1.1,
        "Q4_K": 1.2,
        "Q6_K": 1.5,
        "Q5_K": 1.6,
        "Q4_1": 2.0,
        "Q5_0": 2.0,
        "Q5_1": 2.0,
        "F16": 3.0,
        "BF16": 3.0,
        "F32": 4.0,
    }
)
_OTHER_COST: Final = 2.0
_MIB: Final = 1 << 20
_WORKING_BYTES: Final = 128 << 20


def predict_speed(
    tensors: Sequence[Tensor], target: Target, batches: Sequence[int], prefill: int
) -> Speed:
    """Return the speed that a GGUF model would have on a target.

    Args:
        tensors: of the file.
        target: its bandwidth and cores count.
        batches: clients at once.
        prefill: tokens of a prompt.
    """
    # A separate embedding is looked up, row by row; one that is the output layer is read.
    used = [one for one in tensors if one.name != EMBEDDING or is_tied(tensors)]
    read_seconds = sum(one.size_bytes for one in used) / (target.bandwidth_gb_s * 1e9 * OVERLAP)
    products = _PRODUCTS[target.level] * 1e9 * target.cores
    token_seconds = (
        sum(one.columns * one.rows * _COSTS.get(one.type, _OTHER_COST) for one in used) / products
    )

    def rate(tokens: int) -> float:
        return tokens / max(read_seconds, tokens * token_seconds)

    rates = {f"decode@{batch}": rate(batch) for batch in batches}
    rates[f"prefill@{prefill}"] = rate(prefill)
    size = sum(one.size_bytes for one in tensors)
    return Speed(rates, None, (size + _WORKING_BYTES) / _MIB, predicted=True)


def gguf_predictor(bench: Bench, target: Target, batches: Sequence[int], prefill: int) -> Predictor:
    """Return what predicts the speeds of a bench's files on a target; nothing is timed."""

    def predict(candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
        found = []
        for candidate in candidates:
            with open_gguf(bench.make(candidate, progress)) as file:
                found.append(predict_speed(file.tensors, target, batches, prefill))
        return found

    return predict
