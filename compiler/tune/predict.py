"""What speed a model would have on a machine that is not here: a roofline, and no more.

A token needs each weight once: decoding for few clients waits for memory, for many (and
for prompts) for arithmetic. The time of a step is the longer of the two (Williams, Waterman
and Patterson, "Roofline", 2009). What a core computes depends on its instructions, and on
the format: some unpack slowly. The figures below are what llama.cpp was seen to reach, not
makers' peaks; they rank formats well and times within a factor of about two.

Whatever comes from here is marked as predicted, and stays so in records and reports.
Quality does not depend on the machine and is still measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from compiler.llama.gguf_file import Tensor, open_gguf
from compiler.llama.plan import EMBEDDING, is_tied
from compiler.progress import Progress
from compiler.targets.target import Target
from compiler.tune.bench import Bench
from compiler.tune.candidate import Candidate, Quality, Speed
from security.strictjson import JsonValue

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
# Of the bandwidth that reading alone reaches; the rest of a step does not overlap.
_OVERLAP: Final = 0.7
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
    read_seconds = sum(one.size_bytes for one in used) / (target.bandwidth_gb_s * 1e9 * _OVERLAP)
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


class PredictingBench:
    """A bench that judges here and predicts the speed on a target."""

    def __init__(self, bench: Bench, target: Target, batches: Sequence[int], prefill: int) -> None:
        self._bench = bench
        self._target = target
        self._batches = tuple(batches)
        self._prefill = prefill

    @property
    def context(self) -> Mapping[str, JsonValue]:
        """That of the bench, and the target that speeds are predicted for."""
        return {**self._bench.context, "predicted_for": self._target.to_dict()}

    @property
    def reference(self) -> Candidate:
        """That of the bench."""
        return self._bench.reference

    @property
    def has_quick(self) -> bool:
        """That of the bench."""
        return self._bench.has_quick

    def prepare(self, progress: Progress) -> None:
        """Prepare the bench."""
        self._bench.prepare(progress)

    def make(self, candidate: Candidate, progress: Progress) -> Path:
        """Make the candidate's file."""
        return self._bench.make(candidate, progress)

    def discard(self, candidate: Candidate) -> None:
        """Remove the candidate's file."""
        self._bench.discard(candidate)

    def quality(self, candidate: Candidate, *, quick: bool, progress: Progress) -> Quality:
        """Judge the candidate; quality is measured here whatever the target."""
        return self._bench.quality(candidate, quick=quick, progress=progress)

    def speeds(self, candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
        """Predict the speeds."""
        found = []
        for candidate in candidates:
            with open_gguf(self.make(candidate, progress)) as file:
                found.append(
                    predict_speed(file.tensors, self._target, self._batches, self._prefill)
                )
        return found
