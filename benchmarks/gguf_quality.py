"""Formats of the output layer: quality against the shipped file, and speed, in one run.

The reference is the file as given. Every format is tried tied (the embedding too) and
untied (the embedding stays), rounded plainly, with an importance matrix, and with error
feedback. llama-perplexity scores the reference and one candidate as well; both perplexities
must agree with ours within half a percent. Calibration text and scored text do not overlap.

    python -m benchmarks.gguf_quality MODEL.gguf TEXT [--work build/gguf-quality]
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.llama_server import binary
from compiler.llama.imatrix import gather_imatrix, tokenize
from compiler.llama.plan import ROUNDINGS, GgufPlan
from compiler.llama.quality import compare, make_reference, reference_perplexity
from compiler.llama.quantize import quantize_gguf
from compiler.llama.speed import SpeedSettings, measure_speeds

FORMATS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0")
_SCORED_CHARS = 12_000
_CALIBRATION_CHARS = 60_000
_WINDOWS = 3
_PERPLEXITY = re.compile(r"Final estimate: PPL = ([0-9.]+)")


def oracle_perplexity(gguf: Path, text: Path, threads: int) -> float:
    """Return what llama-perplexity makes of the same windows."""
    program = binary("llama-perplexity").resolve()
    command = [str(program), "--model", str(gguf), "--file", str(text), "--ctx-size", "512"]
    command += ["--chunks", str(_WINDOWS), "--threads", str(threads)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(program.parent)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = _PERPLEXITY.search(result.stdout + result.stderr)
    if found is None:
        raise RuntimeError("llama-perplexity printed no final estimate")
    return float(found.group(1))


def plans() -> Iterator[GgufPlan]:
    """All combinations of format, tied or not, and rounding."""
    for kind, untie, rounding in itertools.product(FORMATS, (False, True), ROUNDINGS):
        if kind != "Q8_0" or rounding == "plain":
            yield GgufPlan(output=kind, untie=untie, rounding=rounding)


def run(gguf: Path, text: Path, work: Path, threads: int) -> Iterator[dict[str, object]]:
    """Yield a row for the reference and one for each plan; files stay in `work`."""
    content = text.read_text(encoding="utf-8")
    work.mkdir(parents=True, exist_ok=True)
    scored = work / "scored.txt"
    scored.write_text(content[:_SCORED_CHARS], encoding="utf-8")
    tokens = tokenize(gguf, content[:_SCORED_CHARS])
    # The end of the text: other articles than those that are scored.
    calibration = tokenize(gguf, content[-_CALIBRATION_CHARS:])
    reference = work / "reference.json"
    if not reference.exists():
        make_reference(gguf, tokens, reference, windows=_WINDOWS, threads=threads)
    importance = work / "importance"
    if not importance.exists():
        gather_imatrix(gguf, calibration, importance, threads=threads)
    ours, theirs = reference_perplexity(reference), oracle_perplexity(gguf, scored, threads)
    yield {"file": "reference", "perplexity": ours, "llama-perplexity": theirs}
    if abs(ours / theirs - 1) > 0.005:
        raise RuntimeError(f"perplexity {ours:.3f}, llama-perplexity says {theirs:.3f}")
    paths = []
    for plan in plans():
        name = f"{plan.output}-{'untied' if plan.untie else 'tied'}-{plan.rounding}"
        path = work / f"{name}.gguf"
        paths.append(path)
        if not path.exists():
            imatrix = None if plan.rounding == "plain" else importance
            quantize_gguf(gguf, path, plan, imatrix=imatrix, threads=threads)
        quality = compare(path, reference, threads=threads)
        figures = {key: round(value, 4) for key, value in quality.to_dict().items()}
        yield {"file": name, "mb": path.stat().st_size // 1_000_000, **figures}
    settings = SpeedSettings(threads=threads)
    timed = [gguf, *(path for path in paths if path.stem.endswith("feedback"))]
    speeds = measure_speeds([(path, settings) for path in timed])
    for path, speed in zip(timed, speeds, strict=True):
        ratios = {
            f"decode_x{count}": round(spread.median / speeds[0].decode[count].median, 3)
            for count, spread in speed.decode.items()
        }
        yield {"file": path.stem, **ratios, "prefill": round(speed.prefill.median)}


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/gguf-quality"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for row in run(options.gguf, options.text, options.work, options.threads):
        print(row, flush=True)


if __name__ == "__main__":
    main()
