"""Private text generation from a checkpoint to two files: samples, and the claim they carry.

1. Everything that can be checked without the model is checked: settings, prompts, output.
2. The claim is verified and the checkpoint opened (`source.open_private`).
3. Texts are written one after another into a file beside.
4. The claim is written with their digest, and both get their names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from trainer.privacy.synthesis.prompts import check_prompts, fitting_tokens, make_starts
from trainer.privacy.synthesis.record import (
    STATEMENT,
    Drawing,
    Samples,
    SyntheticRecord,
    encode_line,
    record_path,
)
from trainer.privacy.synthesis.sample_file import SampleFile, check_output
from trainer.privacy.synthesis.settings import Sampling, check_count
from trainer.privacy.synthesis.source import PrivateModel, open_private
from trainer.privacy.synthesis.writing import write_texts

# Told (texts written, texts in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What was written.

    Attributes:
        samples: the texts.
        claim: the file of the claim.
        record: its content.
        seconds: of writing, without loading.
    """

    samples: Path
    claim: Path
    record: SyntheticRecord
    seconds: float


def synthesize(
    folder: Path,
    output: Path,
    count: int,
    *,
    sampling: Sampling,
    prompts: Sequence[str] = (),
    device: str = "auto",
    progress: Progress | None = None,
    now: datetime | None = None,
) -> Synthesis:
    """Write texts from a privately finetuned model.

    Args:
        folder: the checkpoint, with privacy.json.
        output: the file of texts; its claim is written beside it.
        count: texts to write, 1 or more.
        sampling: how tokens are drawn.
        prompts: public beginnings, taken in turn; empty begins as records do.
        device: "auto", "cpu" or "cuda".
        progress: is told after each text.
        now: the time to record; the clock's by default.

    Raises:
        UsageError: settings, prompts or output that cannot be; nothing was read.
        PrivacyError, CheckpointError, DataError, RecipeError: as `open_private`; also a
            prompt that leaves no room.
        SynthesisError: the files cannot be written, or the model is damaged.
    """
    # 1. Without the model.
    check_count(count)
    check_prompts(prompts, count)
    check_output(output)
    # 2. The claim, then the model.
    model = open_private(folder, device)
    starts = make_starts(prompts, model.checkpoint.tokenizer)
    max_tokens = fitting_tokens(
        starts,
        sampling.max_tokens,
        usual=model.record_tokens,
        context=model.checkpoint.network.context,
    )
    began = time.perf_counter()
    ended = tokens = 0
    with SampleFile(output) as file:
        # 3. The texts.
        texts = write_texts(model.checkpoint, starts, count, sampling, max_tokens)
        for number, text in enumerate(texts, start=1):
            file.write(encode_line(number, text.text, text.prompt))
            ended += text.ended
            tokens += text.tokens
            if progress is not None:
                progress(number, count)
        # 4. The claim.
        samples = Samples(output.name, file.sha256, file.bytes, count, ended, tokens)
        record = _record(model, samples, _drawing(sampling, max_tokens), prompts, now)
        file.commit(record.encode())
    return Synthesis(output, record_path(output), record, time.perf_counter() - began)


def _drawing(sampling: Sampling, max_tokens: int) -> Drawing:
    return Drawing(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        max_tokens=max_tokens,
        seed=sampling.seed,
        batch=sampling.batch,
    )


def _record(
    model: PrivateModel,
    samples: Samples,
    drawing: Drawing,
    prompts: Sequence[str],
    now: datetime | None,
) -> SyntheticRecord:
    report = model.report
    return SyntheticRecord(
        created=(now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        samples=samples,
        model=report.model,
        report_sha256=model.report_sha256,
        dataset=report.composition.dataset,
        claim=report.claim,
        audited=report.standing.audited,
        sampling=drawing,
        prompts=tuple(prompts),
        statement=STATEMENT,
    )
