"""A bench on llama.cpp: GGUF files, judged by divergence from the file that was given.

Everything that runs llama.cpp is in compiler/llama, in processes of its own. The texts
become tokens once; an importance matrix is gathered when the first candidate needs it.
Both, and the reference's distributions, stay in the work folder for the next run, under
the digest of what they were made of.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from casemate.cpu import detect
from compiler.files import digest_of, read_json
from compiler.llama.gguf_file import Tensor, open_gguf
from compiler.llama.imatrix import MIN_TOKENS, calibration_window, gather_imatrix, tokenize
from compiler.llama.plan import GgufPlan
from compiler.llama.quality import compare, make_reference
from compiler.llama.quantize import quantize_gguf
from compiler.llama.sensitivity import group_of, measure_groups
from compiler.llama.speed import SpeedSettings, measure_speeds
from compiler.progress import Progress, silent
from compiler.tune.bench import CandidateFailedError, candidates_fault
from compiler.tune.candidate import MOST, REFERENCE, Candidate, Quality, Speed
from compiler.tune.files import candidate_file, remove_made
from compiler.tune.gguf_space import Sensitive
from compiler.tune.judged import decoder_quality
from compiler.tune.windows import USUAL_CALIBRATION_TOKENS
from security.bundle.manifest import LLAMA_CPP
from security.files import write_atomic
from security.strictjson import JsonValue

BATCHES: Final = (1, 4, 16)
PREFILL: Final = 512
# What a quick look takes of the text: enough to tell what is ruined.
QUICK_TOKENS: Final = 512
_SUFFIX: Final = ".gguf"
_KEEP: Final = GgufPlan()


@dataclass(frozen=True, slots=True)
class GgufSource:
    """What a GGUF bench works on.

    Attributes:
        path: the file, which is also the reference.
        evaluation: text to judge on.
        calibration: text for the importance matrix, or None.
        threads: of llama.cpp.
        window: tokens that are judged together, at most the model's context.
        windows: how many of them.
        seconds: of one timing of one batch.
        batches: clients at once that are timed.
        prefill: tokens of a prompt that is timed.
        min_calibration: tokens that calibration text must have.
        most_calibration: tokens that are taken of it, from its beginning.
    """

    path: Path
    evaluation: str
    calibration: str | None = None
    threads: int = 1
    window: int = 512
    windows: int = 3
    seconds: float = 1.0
    batches: tuple[int, ...] = BATCHES
    prefill: int = PREFILL
    min_calibration: int = MIN_TOKENS
    most_calibration: int = USUAL_CALIBRATION_TOKENS


class GgufBench:
    """See `compiler.tune.bench.Bench`."""

    def __init__(self, source: GgufSource, folder: Path) -> None:
        """Look at a source; nothing runs yet.

        Raises:
            SourceError: the file cannot be read.
            UnsafeModelError: the pre-parser refuses it.
        """
        self._source = source
        self._folder = folder
        self._importance: Path | None = None
        self._references: dict[bool, Path] = {}
        with open_gguf(source.path) as file:
            self.tensors: tuple[Tensor, ...] = file.tensors
        self._context: dict[str, JsonValue] = {
            "backend": LLAMA_CPP,
            "source_sha256": digest_of(source.path),
            "evaluation_sha256": _digest(source.evaluation),
            "calibration_sha256": _digest(source.calibration) if source.calibration else None,
            "window": source.window,
            "windows": source.windows,
            "most_calibration": source.most_calibration,
            "batches": list(source.batches),
            "prefill": source.prefill,
            "seconds": source.seconds,
            "threads": source.threads,
            "versions": {
                name: importlib.metadata.version(name) for name in ("casemate", "llama-cpp-python")
            },
            "machine": detect().model_name,
        }

    @property
    def context(self) -> Mapping[str, JsonValue]:
        """Digests, versions, machine."""
        return self._context

    @property
    def reference(self) -> Candidate:
        """The file as it was given."""
        return Candidate(LLAMA_CPP, "as given", REFERENCE, _KEEP.to_dict(), self.default_settings)

    @property
    def default_settings(self) -> dict[str, JsonValue]:
        """How an appliance runs a model."""
        default = SpeedSettings(threads=self._source.threads)
        return {
            "threads": default.threads,
            "flash": default.flash,
            "extra_buffers": default.extra_buffers,
        }

    @property
    def has_quick(self) -> bool:
        """Whether there is more text than a quick look takes."""
        return self._source.windows > self._quick_windows

    @property
    def _quick_windows(self) -> int:
        return max(1, QUICK_TOKENS // self._source.window)

    def prepare(self, progress: Progress) -> None:
        """Tokenize the texts, keep the reference's distributions, gather importance.

        Raises:
            QuantizationError: a text is too short; says how many tokens it has and needs.
        """
        source = self._source
        progress("tokenizing", 0.0)
        tokens = tokenize(source.path, source.evaluation)
        for quick in (True, False) if self.has_quick else (False,):
            windows = self._quick_windows if quick else source.windows
            path = self._folder / f"reference-{self._key()}-{windows}.json"
            # Written last of its files: where it is, both are whole.
            if not path.exists():
                make_reference(
                    source.path,
                    tokens,
                    path,
                    window=source.window,
                    windows=windows,
                    threads=source.threads,
                    progress=progress,
                )
            self._references[quick] = path
        self._importance = self._gathered(progress)

    def make(self, candidate: Candidate, progress: Progress) -> Path:
        """Quantize the file as the candidate's plan says."""
        plan = GgufPlan.from_dict(candidate.plan)
        if plan == _KEEP:
            return self._source.path
        path = candidate_file(self._folder, candidate, _SUFFIX)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with candidates_fault():
                quantize_gguf(
                    self._source.path,
                    path,
                    plan,
                    imatrix=self._importance,
                    threads=self._source.threads,
                    progress=progress,
                )
        return path

    def discard(self, candidate: Candidate) -> None:
        """Remove the candidate's file."""
        remove_made(self._folder, candidate, _SUFFIX)

    def quality(self, candidate: Candidate, *, quick: bool, progress: Progress) -> Quality:
        """Compare the candidate's distributions with the reference's."""
        path = self.make(candidate, progress)
        with candidates_fault():
            seen = compare(
                path,
                self._references[quick and self.has_quick],
                threads=self._source.threads,
                progress=progress,
            )
            quality = decoder_quality(seen)
        if candidate.plan_digest == self.reference.plan_digest:
            # What is seen of the reference is how its answers were rounded to be kept.
            quality = replace(quality, kl_mean=0.0, kl_p99=0.0)
        return quality

    def speeds(self, candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
        """Time the candidates once, interleaved."""
        source = self._source
        jobs = [(self.make(one, silent), _settings(one)) for one in candidates]
        with candidates_fault():
            seen = measure_speeds(
                jobs,
                batches=source.batches,
                prefill=source.prefill,
                seconds=source.seconds,
                rounds=1,
                progress=progress,
            )
        found = []
        for one in seen:
            rates = {f"decode@{batch}": spread.median for batch, spread in one.decode.items()}
            rates[f"prefill@{source.prefill}"] = one.prefill.median
            found.append(Speed(rates, one.load_seconds.median, one.peak_mib))
        return found

    def ranking(self, kind: str, progress: Progress) -> list[Sensitive]:
        """Return what narrowing each group of layer tensors to a format costs; kept on disk.

        Judged on a part of the text: it ranks, and what is made by the ranking is judged in full.
        """
        path = self._folder / f"ranking-{self._key()}-{kind}.json"
        if not path.exists():
            try:
                with candidates_fault():
                    seen = measure_groups(
                        self._source.path,
                        self._references[self.has_quick],
                        kind,
                        imatrix=self._importance,
                        groups=sorted({group_of(one.name) for one in self._layers()}),
                        threads=self._source.threads,
                        progress=progress,
                    )
            except CandidateFailedError:
                return []
            values = [
                [one.group, one.type, _finite(one.quality.kl_mean), one.saved_bytes] for one in seen
            ]
            write_atomic(path, json.dumps(values).encode())
        return [Sensitive(*value) for value in read_json(path)]

    def _layers(self) -> list[Tensor]:
        return [one for one in self.tensors if one.is_matrix and one.name.startswith("blk.")]

    def _gathered(self, progress: Progress) -> Path | None:
        """Return the importance matrix; None without calibration text."""
        source = self._source
        if not source.calibration:
            return None
        path = self._folder / f"importance-{self._key()}.gguf"
        if not path.exists():
            progress("gathering importance", 0.0)
            gather_imatrix(
                source.path,
                tokenize(source.path, source.calibration)[: source.most_calibration],
                path,
                window=calibration_window(source.window),
                min_tokens=source.min_calibration,
                threads=source.threads,
                progress=progress,
            )
        return path

    def _key(self) -> str:
        known = "|".join(
            str(self._context[name])
            for name in (
                *("source_sha256", "evaluation_sha256", "calibration_sha256"),
                *("window", "windows"),
            )
        )
        return hashlib.sha256(f"{known}|{self._context['versions']}".encode()).hexdigest()[:16]


def _settings(candidate: Candidate) -> SpeedSettings:
    given = candidate.settings
    threads = given.get("threads")
    return SpeedSettings(
        threads=threads if isinstance(threads, int) else 1,
        flash=bool(given.get("flash")),
        extra_buffers=bool(given.get("extra_buffers")),
    )


def _finite(divergence: float) -> float:
    """Return a divergence as a number to rank by; what is none ruins more than all others."""
    return divergence if abs(divergence) <= MOST else MOST


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
