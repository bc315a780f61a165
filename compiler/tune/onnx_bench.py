"""A bench on ONNX Runtime: graphs with a tokenizer, judged on texts.

An embedder is judged by whether texts that are alike stay alike (Spearman correlation of
all pairs of similarities with the reference's), a classifier by its distribution over
classes and, where labels are known, by its accuracy. Every graph runs in a process of its
own (compiler.onnx_measure).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from casemate.cpu import detect
from compiler.errors import SearchError
from compiler.files import MAX_TOKENIZER_BYTES, digest_of, read_bytes
from compiler.onnx_measure.outputs import encode_texts, run_outputs
from compiler.onnx_measure.quality import compare_outputs
from compiler.onnx_measure.result import Feeds
from compiler.onnx_measure.speed import measure_onnx_speed
from compiler.onnx_quantize.plan import FLOAT32, OnnxPlan
from compiler.onnx_quantize.quantize import quantize_onnx
from compiler.onnx_quantize.sensitivity import rank_sensitivity
from compiler.progress import Progress, labels
from compiler.tune.bench import CandidateFailedError, candidates_fault
from compiler.tune.candidate import REFERENCE, Candidate, Quality, Speed
from compiler.tune.files import candidate_file, remove_made
from compiler.tune.judged import CLASSIFY, encoder_quality
from security.bundle.manifest import ONNXRUNTIME
from security.strictjson import JsonValue

EMBED: Final = "embed"
CASES: Final = ((1, 16), (1, 128), (32, 16), (32, 128))
_LEAST_TEXTS: Final = 16
_MOST_CALIBRATION: Final = 64
MAX_TOKENS: Final = 128
_BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class OnnxSource:
    """What an ONNX bench works on.

    Attributes:
        graph: the float graph, which the pre-parser has passed.
        tokenizer: its tokenizer.json.
        task: "embed" or "classify".
        texts: to judge on; at least 16.
        calibration: texts for ranges and second moments; none of them judged on.
        labels: the right class of each of `texts`, or None.
        threads: of a session.
        seconds: of one timing of one shape.
        cases: (batch, tokens) that are timed; within the model's context.
        max_tokens: that are looked at of each text; within the model's context.
    """

    graph: Path
    tokenizer: Path
    task: str
    texts: tuple[str, ...]
    calibration: tuple[str, ...] = ()
    labels: tuple[int, ...] | None = None
    threads: int = 1
    seconds: float = 0.5
    cases: tuple[tuple[int, int], ...] = CASES
    max_tokens: int = MAX_TOKENS


class OnnxBench:
    """See `compiler.tune.bench.Bench`."""

    has_quick = False

    def __init__(self, source: OnnxSource, folder: Path) -> None:
        """Look at a source; nothing runs yet.

        Raises:
            SearchError: too few texts to judge on, or another task.
        """
        if source.task not in (EMBED, CLASSIFY):
            raise SearchError("an ONNX model is tuned for the tasks embed and classify only")
        if len(source.texts) < _LEAST_TEXTS:
            raise SearchError(
                f"{len(source.texts)} texts are too few to judge quality on; give at least "
                f"{_LEAST_TEXTS}"
            )
        self._source = source
        self._folder = folder
        self._right: NDArray[np.float32] | None = None
        self._feeds: list[Feeds] = []
        self._context: dict[str, JsonValue] = {
            "backend": ONNXRUNTIME,
            "source_sha256": digest_of(source.graph),
            "tokenizer_sha256": hashlib.sha256(
                read_bytes(source.tokenizer, MAX_TOKENIZER_BYTES)
            ).hexdigest(),
            "texts_sha256": _texts_digest(source.texts, source.labels),
            "calibration_sha256": _texts_digest(source.calibration, None),
            "task": source.task,
            "cases": [list(case) for case in source.cases],
            "seconds": source.seconds,
            "max_tokens": source.max_tokens,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("casemate", "onnx", "onnxruntime", "tokenizers")
            },
            "machine": detect().model_name,
            "threads": source.threads,
        }

    @property
    def context(self) -> Mapping[str, JsonValue]:
        """Digests, versions, machine."""
        return self._context

    @property
    def reference(self) -> Candidate:
        """The float graph."""
        plan = OnnxPlan(kind=FLOAT32).to_dict()
        settings: dict[str, JsonValue] = {"threads": self._source.threads}
        return Candidate(ONNXRUNTIME, "as given", REFERENCE, plan, settings)

    def prepare(self, progress: Progress) -> None:
        """Encode the texts and run the reference on them."""
        progress("encoding texts", 0.0)
        source = self._source
        self._feeds = list(
            encode_texts(source.tokenizer, source.texts, batch=_BATCH, max_tokens=source.max_tokens)
        )
        progress("running the reference", 0.5)
        self._right = self._outputs(source.graph)

    def make(self, candidate: Candidate, progress: Progress) -> Path:
        """Quantize the graph as the candidate's plan says."""
        plan = OnnxPlan.from_dict(candidate.plan)
        if plan.kind == FLOAT32:
            return self._source.graph
        path = candidate_file(self._folder, candidate, ".onnx")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            needed = self.calibration() if plan.needs_calibration else None
            with candidates_fault():
                quantize_onnx(self._source.graph, path, plan, needed, labels(progress, 4))
        return path

    def discard(self, candidate: Candidate) -> None:
        """Remove the candidate's graph."""
        remove_made(self._folder, candidate, ".onnx")

    def quality(self, candidate: Candidate, *, quick: bool, progress: Progress) -> Quality:
        """Compare the outputs for all texts with the reference's."""
        del quick
        if self._right is None:
            raise SearchError("a bench is prepared before it judges")
        progress("running on the texts", 0.0)
        source = self._source
        with candidates_fault():
            found = self._outputs(self.make(candidate, progress))
            return encoder_quality(compare_outputs(self._right, found, source.labels), source.task)

    def speeds(self, candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
        """Time each graph at each shape, once."""
        found = []
        for number, candidate in enumerate(candidates):
            progress(f"timing {candidate.label}", number / len(candidates))
            threads = candidate.settings.get("threads")
            with candidates_fault():
                seen = measure_onnx_speed(
                    self.make(candidate, progress),
                    cases=self._source.cases,
                    threads=threads if isinstance(threads, int) else self._source.threads,
                    seconds=self._source.seconds,
                    rounds=1,
                )
            rates = {f"encode@{one.batch}x{one.length}": one.median for one in seen.cases}
            found.append(Speed(rates, seen.load_seconds, seen.peak_mib))
        return found

    def calibration(self) -> list[Feeds]:
        """Return inputs that are typical of use and that nothing is judged on.

        Raises:
            CandidateFailedError: there are no texts for it.
        """
        texts = self._source.calibration[:_MOST_CALIBRATION]
        if not texts:
            raise CandidateFailedError("needs calibration texts, and none were given")
        most = self._source.max_tokens
        return list(encode_texts(self._source.tokenizer, texts, batch=_BATCH, max_tokens=most))

    def ranking(self, plan: OnnxPlan, progress: Progress) -> list[str]:
        """Return tensor names by the error that quantizing each alone causes, worst first.

        Raises:
            CandidateFailedError: it cannot be measured.
        """
        with candidates_fault():
            found = rank_sensitivity(
                self._source.graph, plan, self.calibration(), progress=progress
            )
        return [one.tensor for one in found]

    def _outputs(self, graph: Path) -> NDArray[np.float32]:
        return run_outputs(graph, self._feeds, threads=self._source.threads)


def _texts_digest(texts: Sequence[str], given: Sequence[int] | None) -> str:
    digest = hashlib.sha256(repr(tuple(given)).encode() if given is not None else b"")
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
