"""What quantizing gave: the file, and which tensors became what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compiler.onnx_quantize.plan import OnnxPlan


@dataclass(frozen=True, slots=True)
class OnnxQuantized:
    """A quantized graph on disk.

    Attributes:
        path: the file.
        plan: what it was made by.
        size_bytes: of the file.
        quantized: names of the constant tensors (as in the source) that were quantized.
        kept: names of the matrices and tables that stayed in float.
    """

    path: Path
    plan: OnnxPlan
    size_bytes: int
    quantized: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorError:
    """What quantizing one tensor alone does to the outputs.

    Attributes:
        tensor: its name in the source.
        divergence: mean over the outputs of |quantized - reference|^2 / |reference|^2.
        parameters: elements of the tensor.
    """

    tensor: str
    divergence: float
    parameters: int
