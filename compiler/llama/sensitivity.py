"""Which tensors bear a format and which do not.

`rank_tensors` is quick: the importance-weighted error of each matrix, without running the
model. `measure_groups` is what counts: groups of tensors get the format one after the other,
everything else stays, and the KL divergence to the reference is measured. Groups are tensors
of one kind in all layers, such as "ffn_down", since single layers are within the noise.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.llama.gguf_file import open_gguf
from compiler.llama.job import DEFAULT_SECONDS, run_job
from compiler.llama.plan import GgufPlan, resolve
from compiler.llama.quality import GgufQuality, compare
from compiler.llama.quantize import quantize_gguf
from compiler.progress import Progress, part, silent

_ROWS = 2048


@dataclass(frozen=True, slots=True)
class TensorError:
    """A matrix, the format tried, its relative weighted error and its size in bytes now."""

    name: str
    type: str
    error: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GroupEffect:
    """A group of tensors, what re-formatting it alone does, and the bytes that it saves."""

    group: str
    type: str
    quality: GgufQuality
    saved_bytes: int


def group_of(name: str) -> str:
    """Return a tensor's group: "ffn_down" for "blk.7.ffn_down.weight"."""
    return re.sub(r"^blk\.\d+\.|\.weight$", "", name)


def rank_tensors(
    gguf: Path,
    imatrix: Path,
    kind: str,
    *,
    threads: int = 1,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = silent,
) -> list[TensorError]:
    """Return all matrices with the error that `kind` makes in them, worst first.

    Raises:
        QuantizationError: no such format, or a damaged importance file.
        SourceError, UnsafeModelError, ChildError: see the package.
    """
    with open_gguf(gguf) as file:
        resolved = resolve(GgufPlan(default=kind), file.tensors)
        sizes = {tensor.name: tensor.size_bytes for tensor in file.tensors if tensor.is_matrix}
    types = {name: resolved.types[name] for name in sizes}
    arguments = {
        "gguf": str(gguf.resolve()),
        "imatrix": str(imatrix.resolve()),
        "types": types,
        "rows": _ROWS,
    }
    answer = run_job("errors", arguments, seconds=seconds, threads=threads, progress=progress)
    errors = answer["errors"]
    ranked = [TensorError(name, types[name], errors[name], sizes[name]) for name in sizes]
    return sorted(ranked, key=lambda tensor: (-tensor.error, tensor.name))


def measure_groups(
    gguf: Path,
    reference: Path,
    kind: str,
    *,
    imatrix: Path | None = None,
    groups: Sequence[str] | None = None,
    threads: int = 1,
    progress: Progress = silent,
) -> list[GroupEffect]:
    """Measure what `kind` does to each group of tensors alone, worst first.

    Args:
        reference: what `make_reference` stored for `gguf`.
        imatrix: weights the rounding; None rounds plainly.
        groups: only these; None takes every group that has a matrix.
        progress: told of each group, and of each step of its file; what it raises ends it all.

    Raises:
        QuantizationError, SourceError, UnsafeModelError, ChildError, OSError: see the package.
    """
    with open_gguf(gguf) as file:
        matrices = [tensor for tensor in file.tensors if tensor.is_matrix]
        resolved = resolve(GgufPlan(default=kind), file.tensors)
    names: dict[str, list[str]] = {}
    for tensor in matrices:
        names.setdefault(group_of(tensor.name), []).append(tensor.name)
    wanted = [group for group in names if groups is None or group in groups]
    effects = []
    before = {tensor.name: tensor.size_bytes for tensor in matrices}
    # Beside the model: the system's temporary folder may be memory.
    with tempfile.TemporaryDirectory(dir=reference.parent) as folder:
        for number, group in enumerate(wanted):
            share = part(progress, number / len(wanted), (number + 1) / len(wanted))
            pairs = tuple((re.escape(name), resolved.types[name]) for name in names[group])
            how = "plain" if imatrix is None else "imatrix"
            out = Path(folder, "group.gguf")
            plan = GgufPlan(tensors=pairs, rounding=how)
            share(f"ranking {group}", 0.0)
            writing, judging = part(share, 0.0, 0.5), part(share, 0.5, 1.0)
            quantize_gguf(gguf, out, plan, imatrix=imatrix, threads=threads, progress=writing)
            quality = compare(out, reference, threads=threads, progress=judging)
            with open_gguf(out) as file:
                after = sum(file.tensor(name).size_bytes for name in names[group])
            out.unlink()
            saved = sum(before[name] for name in names[group]) - after
            effects.append(GroupEffect(group, kind, quality, saved))
    return sorted(effects, key=lambda effect: (-effect.quality.kl_mean, effect.group))
