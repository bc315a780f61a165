"""Records the probes of an unsigned bundle by running it once.

What is recorded is what this machine answers. The tolerances allow for what another
CPU's kernels and another batch composition change: a greedy text is pinned down
only as far as the winning token was ahead by `SURE_NATS`, the rest by its
log-probability.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from casemate.client.tensors import BYTES, FORMATS
from casemate.pb.casemate.v1 import text_pb2
from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.errors import NoVariant
from runtime.probes.compare import compare
from runtime.probes.model import PROBES_FILE, Probe, encode_probes
from runtime.probes.outcome import Outcome, ask
from runtime.worker.settings import WorkerConfig
from runtime.worker.supervisor import WorkerProcess
from runtime.worker.variant import choose_variant, this_cpu
from security.bundle.manifest import BundleManifest, Variant
from security.bundle.opening import open_unsigned
from security.errors import BundleError
from security.files import write_atomic

# A token that leads by this much (natural log) stays first on other kernels.
SURE_NATS = 0.5
LOGPROB_SHARE = 0.03
LOGPROB_FLOOR = 0.5
MIN_COSINE = 0.98
SCORE_TOLERANCE = 0.1
TENSOR_RELATIVE = 0.05
TENSOR_ABSOLUTE = 0.05
_DIGITS = 6

_TEXTS = (
    "The lighthouse stands at the end of the pier.",
    "Water boils at one hundred degrees Celsius.",
    "I did not like this film at all.",
)
_PROMPTS = ("The capital of France is", "One, two, three, four,")
_MAX_TOKENS = 12


def record(folder: Path, config: WorkerConfig | None = None) -> tuple[Probe, ...]:
    """Run a bundle once and write its probes.jsonl. Blocks; needs no running event loop.

    Args:
        folder: a bundle of one's own, unsigned or to be signed again.
        config: limits of the worker that runs it.

    Raises:
        BundleError: the bundle breaks a rule, or answers its own probes differently.
        WorkerError: it cannot be run here.
    """
    probes = asyncio.run(_record(folder, config or WorkerConfig()))
    write_atomic(folder / PROBES_FILE, encode_probes(probes), mode=0o644)
    return probes


async def _record(folder: Path, config: WorkerConfig) -> tuple[Probe, ...]:
    bundle = await asyncio.to_thread(open_unsigned, folder)
    with bundle:
        worker = await WorkerProcess.start(bundle, config, _recorded_with(bundle.manifest))
        try:
            probes = []
            for number, (kind, request) in enumerate(_requests(bundle.manifest, worker.ready), 1):
                blank = Probe(f"p{number}", kind, request, {}, {})
                probes.append(_recorded(blank, await ask(worker, blank)))
            for probe in probes:
                problem = compare(probe, await ask(worker, probe))
                if problem is not None:
                    raise BundleError("bad-probes", f"probe {probe.id} fails at once: {problem}")
        finally:
            await worker.kill()
    return tuple(probes)


def _recorded_with(manifest: BundleManifest) -> Variant:
    """Return what this processor would run; for another one's bundle, the last variant.

    A model file runs wherever its backend does: what a variant needs keeps an appliance
    from one that would be slow or inexact there. The last is the least demanding.
    """
    try:
        return choose_variant(manifest, this_cpu())
    except NoVariant:
        return manifest.variants[-1]


def _requests(
    manifest: BundleManifest, ready: worker_pb2.Ready
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return a few requests that exercise what the task is for."""
    if manifest.task == "generate":
        context = manifest.limits.context_tokens
        tokens = max(1, min(_MAX_TOKENS, manifest.limits.max_output_tokens, context // 4))
        # ASCII is at most a token a character, and some models begin and end a text.
        room = max(1, context - 2)
        texts: list[tuple[str, Mapping[str, Any]]] = [
            ("generate", {"prompt": prompt[: max(1, room - tokens)], "max_tokens": tokens})
            for prompt in _PROMPTS
        ]
        if manifest.chat_template is not None:
            chat = [{"role": "user", "content": "Name a color."}]
            texts.append(("generate", {"chat": chat, "max_tokens": tokens}))
        return [*texts, ("score", {"texts": [text[:room] for text in _TEXTS[:2]]})]
    if manifest.task == "embed":
        return [("embed", {"inputs": list(_TEXTS)})]
    if manifest.task == "classify":
        return [("classify", {"inputs": list(_TEXTS)})]
    return [("tensor", {"inputs": [_sample(spec) for spec in ready.inputs]})]


def _sample(spec: worker_pb2.TensorSpec) -> dict[str, Any]:
    """Return small, varied values for one input; a free dimension gets size 1."""
    shape = [size if size > 0 else 1 for size in spec.shape]
    count = 1
    for size in shape:
        count *= size
    if spec.datatype == BYTES or spec.datatype not in FORMATS:
        raise BundleError(
            "bad-probes", f"input {spec.name} is {spec.datatype}: write {PROBES_FILE} by hand"
        )
    if spec.datatype.startswith("FP"):
        data: list[Any] = [(index % 7) / 8 for index in range(count)]
    else:
        data = [index % 2 for index in range(count)]
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data}


def _recorded(blank: Probe, got: Outcome) -> Probe:
    """Return the probe with what was answered and how far an answer may differ."""
    expect: dict[str, Any]
    tolerance: dict[str, Any]
    if blank.kind == "generate":
        expect, tolerance = {"text": got.text}, {"prefix_chars": sure_chars(got)}
        if got.logprobs:
            expect["logprob"] = _rounded(got.logprobs)[0]
            tolerance["logprob"] = _logprob_tolerance(got.logprobs)
    elif blank.kind == "score":
        expect = {"logprobs": _rounded(got.logprobs)}
        tolerance = {"logprob": _logprob_tolerance(got.logprobs)}
    elif blank.kind == "embed":
        expect = {"embeddings": [_rounded(vector) for vector in got.vectors]}
        tolerance = {"cosine": MIN_COSINE}
    elif blank.kind == "classify":
        expect = {
            "labels": [ranked[0][0] for ranked in got.labels],
            "scores": _rounded([ranked[0][1] for ranked in got.labels]),
        }
        tolerance = {"score": SCORE_TOLERANCE}
    else:
        expect = {"outputs": [_output(got, name) for name in sorted(got.tensors)]}
        tolerance = {"absolute": TENSOR_ABSOLUTE, "relative": TENSOR_RELATIVE}
    return Probe(blank.id, blank.kind, blank.request, expect, tolerance)


def sure_chars(got: Outcome) -> int:
    """Return how many characters came from tokens that led by at least `SURE_NATS`."""
    sure = b""
    for token in got.tokens:
        if _lead(token) < SURE_NATS:
            break
        sure += token.token
    return min(len(sure.decode("utf-8", errors="ignore")), len(got.text))


def _lead(token: text_pb2.TokenLogprob) -> float:
    """Return how far a token is ahead of the best other one, in nats."""
    others = [other.logprob for other in token.alternatives if other.token != token.token]
    return token.logprob - max(others) if others else 0.0


def _output(got: Outcome, name: str) -> dict[str, Any]:
    tensor = got.tensors[name]
    return {
        "name": name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "data": _rounded(tensor.data),
    }


def _logprob_tolerance(values: Sequence[float]) -> float:
    return round(max(LOGPROB_FLOOR, *(abs(value) * LOGPROB_SHARE for value in values)), 3)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]
