"""What a quantized ONNX file is made by: frozen values, and their exact JSON form.

A plan says everything that decides the bytes, calibration data aside. The form read back
is strict: a field that is missing, unknown or of another type is an error, as is a
combination that means nothing, since a plan that is half understood gives another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from compiler.errors import QuantizationError

FLOAT32 = "float32"
FLOAT16 = "float16"
DYNAMIC_INT8 = "dynamic_int8"
STATIC_INT8 = "static_int8"
BLOCKS = "blocks"
KINDS = (FLOAT32, FLOAT16, DYNAMIC_INT8, STATIC_INT8, BLOCKS)

ROUNDINGS = RTN, HQQ, GPTQ = ("rtn", "hqq", "gptq")
RANGES = MIN_MAX, ENTROPY, PERCENTILE = ("minmax", "entropy", "percentile")
_BITS = (4, 8)
_BLOCKS = (16, 32, 64, 128, 256)
_ACCURACY_LEVELS = (0, 1, 4)


@dataclass(frozen=True, slots=True)
class OnnxPlan:
    """How the constant matrices of a graph are stored and multiplied.

    Attributes:
        kind: "float32" leaves the graph as it is. "float16" stores weights in half
            precision and computes in single. "dynamic_int8" multiplies in 8 bits with
            ranges of activations taken while running, "static_int8" with ranges from
            calibration, as QuantizeLinear/DequantizeLinear pairs. "blocks" stores weights
            in blocks of `bits` along the summed axis (MatMulNBits).
        per_channel: one scale for each column of a weight instead of one in all (int8).
        reduce_range: weights in 7 bits, for x86 without VNNI, whose 8-bit products
            saturate in 16 bits (int8).
        bits: of a weight in "blocks": 4 or 8.
        block: weights that share a scale in "blocks": 16, 32, 64, 128 or 256.
        rounding: "rtn" to nearest, "hqq" half-quadratic, "gptq" with error feedback from
            calibration (blocks).
        symmetric: blocks without zero points.
        accuracy_level: of MatMulNBits: 4 multiplies in int8, 1 in float32, 0 as the
            runtime likes.
        calibration: how "static_int8" derives ranges: "minmax", "entropy", "percentile".
        percentile: of the values that the range is to hold, in percent.
        embeddings: whether tables that are looked up become int8 too, a scale per row.
        excluded: names of constant tensors that stay in float, sorted.
    """

    kind: str = DYNAMIC_INT8
    per_channel: bool = True
    reduce_range: bool = False
    bits: int = 4
    block: int = 32
    rounding: str = RTN
    symmetric: bool = False
    accuracy_level: int = 4
    calibration: str = MIN_MAX
    percentile: float = 99.99
    embeddings: bool = False
    excluded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("bits", self.bits, _BITS)
        _one_of("block", self.block, _BLOCKS)
        _one_of("rounding", self.rounding, ROUNDINGS)
        _one_of("accuracy_level", self.accuracy_level, _ACCURACY_LEVELS)
        _one_of("calibration", self.calibration, RANGES)
        if not 50.0 < self.percentile <= 100.0:
            raise QuantizationError("percentile must be above 50 and at most 100")
        if tuple(sorted(set(self.excluded))) != self.excluded:
            raise QuantizationError("excluded must be sorted names, each given once")

    @property
    def needs_calibration(self) -> bool:
        """Whether the plan cannot be carried out without calibration data."""
        return self.kind == STATIC_INT8 or (self.kind == BLOCKS and self.rounding == GPTQ)

    @property
    def label(self) -> str:
        """A short name for tables, such as "dynamic_int8 -2" with two tensors left in float."""
        words = [self.kind]
        if self.kind == BLOCKS:
            words = [f"int{self.bits}-g{self.block}", self.rounding]
        elif self.kind == STATIC_INT8:
            words.append(self.calibration)
        if self.embeddings:
            words.append("embeddings")
        if self.excluded:
            words.append(f"-{len(self.excluded)}")
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, one for each attribute, in their order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "excluded": list(self.excluded)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OnnxPlan:
        """Return the plan that `to_dict` wrote.

        Raises:
            QuantizationError: a field is missing, unknown, of another type or out of range.
        """
        defaults = cls().to_dict()
        if not isinstance(values, Mapping) or values.keys() != defaults.keys():
            raise QuantizationError(f"a plan has exactly the fields {', '.join(defaults)}")
        read = dict(values)
        for name, default in defaults.items():
            if isinstance(default, float) and type(read[name]) is int:
                read[name] = float(read[name])
            if type(read[name]) is not type(default):
                raise QuantizationError(f"{name} of a plan must be a {type(default).__name__}")
        if not all(type(name) is str for name in read["excluded"]):
            raise QuantizationError("excluded of a plan must hold names of tensors")
        return cls(**{**read, "excluded": tuple(read["excluded"])})


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        listed = ", ".join(str(item) for item in allowed)
        raise QuantizationError(f"{name} of a plan must be one of {listed}")
