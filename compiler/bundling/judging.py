"""How far a form's answers are from its reference's: of decoders and of encoders.

A decoder is judged by its next-token distributions on the texts that were given, an embedder
by whether alike texts stay alike, a classifier by its distributions over classes and, where
the texts are labelled, by its accuracy. Nothing is judged on less than it can be told from:
a decoder without texts, and a graph of plain tensors, are not judged at all.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.bundling.keeping import is_kept, keep
from compiler.bundling.reference import Reference
from compiler.progress import Progress, part
from compiler.tune.candidate import Quality
from security.bundle.manifest import LLAMA_CPP

_MOST_TOKENS: Final = 4096


class EncoderJudge:
    """Compares graphs with one reference, whose answers are computed once."""

    def __init__(self, reference: Reference) -> None:
        """Take a reference with inputs to judge on."""
        self._reference = reference
        self._threads = len(os.sched_getaffinity(0))

    @cached_property
    def _right(self) -> NDArray[np.float32]:
        return self._outputs(self._reference.path)

    def quality(self, path: Path) -> Quality:
        """Return how far the graph at `path` is from the reference.

        Raises:
            RuinedError: its outputs are no numbers.
            QuantizationError: they have another shape.
            ChildError: it cannot be run.
        """
        from compiler.onnx_measure.quality import compare_outputs
        from compiler.tune.judged import encoder_quality

        seen = compare_outputs(self._right, self._outputs(path), self._reference.labels)
        return encoder_quality(seen, self._reference.plan.task)

    def _outputs(self, path: Path) -> NDArray[np.float32]:
        from compiler.onnx_measure.outputs import run_outputs

        return run_outputs(path, self._reference.feeds, threads=self._threads)


def judge(
    reference: Reference, path: Path, work: Path, texts: str | None, progress: Progress
) -> Quality | None:
    """Return how far a file's answers are from the reference's; None if it cannot be said."""
    if reference.plan.backend == LLAMA_CPP:
        return _judge_gguf(reference, path, work, texts, progress)
    if not reference.feeds:
        return None
    progress("comparing it with the float model", 0.0)
    return EncoderJudge(reference).quality(path)


def _judge_gguf(
    reference: Reference, path: Path, work: Path, texts: str | None, progress: Progress
) -> Quality | None:
    if texts is None:
        return None
    from compiler.llama.imatrix import tokenize
    from compiler.llama.quality import compare, make_reference
    from compiler.tune.judged import decoder_quality
    from compiler.tune.windows import window_of

    threads = len(os.sched_getaffinity(0))
    window = window_of(reference.plan.context_tokens)
    kept = work / "quality.json"
    answers = kept.with_name(f"{kept.name}.f16")
    if not (is_kept(kept) and is_kept(answers)):
        kept.unlink(missing_ok=True)
        answers.unlink(missing_ok=True)
        tokens = tokenize(reference.path, texts)
        make_reference(
            reference.path,
            tokens,
            kept,
            window=window,
            windows=max(1, min(_MOST_TOKENS, len(tokens)) // window),
            threads=threads,
            progress=part(progress, 0.0, 0.5),
        )
        keep(kept)
        keep(answers)
    seen = compare(path, kept, threads=threads, progress=part(progress, 0.5, 1.0))
    return decoder_quality(seen)
