"""Write a GGUF file in other formats, tensor by tensor, in a child process.

Two ways, chosen by the plan. A named mix ("Q4_K_M") goes through llama.cpp's own
`llama_model_quantize`, which knows which of its tensors deserve better (jobs/mix.py).
Single formats, untied output layers and better rounding are written here, with ggml's
codecs or rounding.py; a tensor whose format stays keeps its bytes, and metadata stays the
source's.

Refused: a target that exists, an importance matrix that lacks what the plan needs, formats
that a tensor cannot take. Nothing half-written stays, whatever happens to the child.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import QuantizationError
from compiler.llama.files import beside
from compiler.llama.gguf_file import open_gguf
from compiler.llama.importance_file import read_importance
from compiler.llama.job import DEFAULT_SECONDS, run_job
from compiler.llama.plan import EMBEDDING, MIXES, OUTPUT, GgufPlan, Resolved, resolve
from compiler.progress import Progress, silent

_DIGEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class GgufQuantized:
    """A file that was written.

    Attributes:
        path: the file.
        sha256: its digest, 64 hexadecimal digits.
        size_bytes: its length.
        types: tensor name to format.
        fallbacks: tensors that could not take the default's format, and what they got.
        rounding: changed tensors: "plain", "imatrix" or "feedback", as it was done.
        peak_memory_bytes: of the child that wrote it, mapped file included.
    """

    path: Path
    sha256: str
    size_bytes: int
    types: Mapping[str, str]
    fallbacks: Mapping[str, str]
    rounding: Mapping[str, str]
    peak_memory_bytes: int


def quantize_gguf(
    source: Path,
    out: Path,
    plan: GgufPlan,
    *,
    imatrix: Path | None = None,
    threads: int = 1,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = silent,
) -> GgufQuantized:
    """Write `source` to the new file `out` as `plan` says.

    Args:
        imatrix: what `gather_imatrix` wrote; needed unless the plan rounds plainly.
        threads: of the child; feedback's result may differ in the last bit by them.
        seconds: time limit.

    Raises:
        QuantizationError: plan and file do not fit; see plan.resolve.
        SourceError, UnsafeModelError, ChildError, OSError: see the package.
    """
    with open_gguf(source) as file:
        resolved = resolve(plan, file.tensors)
        _check_importance(plan, resolved, imatrix)
    arguments = {
        "source": str(source.resolve()),
        "types": dict(resolved.types),
        "imatrix": str(imatrix.resolve()) if imatrix and plan.rounding != "plain" else None,
        "rounding": plan.rounding,
        "threads": threads,
    }
    job = "rewrite"
    if plan.default in MIXES:
        job = "mix"
        named = _named(plan, resolved)
        arguments |= {"ftype": MIXES[plan.default], "types": named}
    with beside(out) as whole:
        arguments["out"] = str(whole)
        answer = run_job(job, arguments, seconds=seconds, threads=threads, progress=progress)
        with open_gguf(whole) as file:
            types = {tensor.name: tensor.type for tensor in file.tensors}
        digest, size = _digest(whole)
    peak = answer["peak_memory_bytes"]
    return GgufQuantized(out, digest, size, types, resolved.fallbacks, answer["rounding"], peak)


def _named(plan: GgufPlan, resolved: Resolved) -> dict[str, str]:
    """Return the formats that a plan names beside a mix, which llama.cpp is to respect."""
    patterns = [pattern for pattern, _ in plan.tensors]
    names = [n for n in resolved.types if any(re.fullmatch(p, n) for p in patterns)]
    names += [OUTPUT] if plan.output is not None and OUTPUT in resolved.types else []
    names += [EMBEDDING] if plan.embedding is not None or plan.output is not None else []
    return {name: resolved.types[name] for name in names}


def _check_importance(plan: GgufPlan, resolved: Resolved, imatrix: Path | None) -> None:
    """Refuse a plan whose rounding needs what is not there."""
    if plan.default in MIXES and (plan.untie or plan.rounding == "feedback"):
        raise QuantizationError(
            f"{plan.default} is written by llama.cpp itself: it unties nothing and knows no "
            "rounding with feedback; name single formats instead"
        )
    if plan.rounding == "plain":
        return
    if imatrix is None:
        raise QuantizationError(f"rounding {plan.rounding!r} needs an importance matrix")
    importance = read_importance(imatrix)
    if plan.rounding == "feedback" and resolved.changed and not importance.moments:
        raise QuantizationError(
            f"{imatrix}: has no second moments, which rounding with feedback needs; gather it anew"
        )


def _digest(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_DIGEST_BYTES):
            digest.update(piece)
        return digest.hexdigest(), file.tell()
