"""Quality of every GGUF format of the output layer, and whether our perplexity is right.

The reference is the shipped Q4_K_M file. Every format is tried tied (the embedding too) and
untied (the embedding stays), rounded plainly, with an importance matrix, and with error
feedback; each file's perplexity is taken by us and by llama.cpp's own llama-perplexity, over
the same windows of WikiText-2. Text for the importance matrix lies elsewhere in the file.

    python -m benchmarks gguf_quality
    python -m benchmarks.gguf_quality --model MODEL.gguf --text TEXT --windows 8

Speed does not matter here: the machine need not be quiet. `benchmarks.tuner` has the speeds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.llama_server import binary
from benchmarks.prompts import shared_folder
from compiler.llama.imatrix import gather_imatrix, tokenize
from compiler.llama.plan import ROUNDINGS, GgufPlan
from compiler.llama.quality import compare, make_reference, reference_perplexity
from compiler.llama.quantize import quantize_gguf

NAME = "gguf_quality"
PACKAGES = ("llama-cpp-python", "gguf", "numpy")
FORMATS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0")
_MODEL = Path("build/models/gemma-3-270m-q4_k_m.gguf")
_WINDOW = 512
_SCORED_CHARS = 40_000
_CALIBRATION_CHARS = 60_000
_PERPLEXITY = re.compile(r"Final estimate: PPL = ([0-9.]+)")


def oracle_perplexity(gguf: Path, text: Path, windows: int, threads: int) -> float:
    """Return what llama-perplexity makes of the same windows."""
    program = binary("llama-perplexity").resolve()
    command = [str(program), "--model", str(gguf), "--file", str(text)]
    command += ["--ctx-size", str(_WINDOW), "--chunks", str(windows), "--threads", str(threads)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(program.parent)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = _PERPLEXITY.search(result.stdout + result.stderr)
    if found is None:
        raise RuntimeError("llama-perplexity printed no final estimate")
    return float(found.group(1))


def plans(formats: Sequence[str]) -> Iterator[GgufPlan]:
    """All combinations of format, tied or not, and rounding."""
    for kind, untie, rounding in itertools.product(formats, (False, True), ROUNDINGS):
        if kind != "Q8_0" or rounding == "plain":
            yield GgufPlan(output=kind, untie=untie, rounding=rounding)


def run(options: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for the reference and one for each plan."""
    gguf, threads = options.model, options.threads
    content = options.text.read_text(encoding="utf-8")
    scored = work / "scored.txt"
    scored.write_text(content[:_SCORED_CHARS], encoding="utf-8")
    tokens = tokenize(gguf, content[:_SCORED_CHARS])
    # The end of the text: other articles than those that are scored.
    calibration = tokenize(gguf, content[-_CALIBRATION_CHARS:])
    reference, importance = work / "reference.json", work / "importance"
    make_reference(
        gguf, tokens, reference, window=_WINDOW, windows=options.windows, threads=threads
    )
    gather_imatrix(gguf, calibration, importance, threads=threads)
    yield {
        "file": "as given",
        "megabytes": gguf.stat().st_size // 1_000_000,
        **_both(
            reference_perplexity(reference),
            oracle_perplexity(gguf, scored, options.windows, threads),
        ),
    }
    for plan in plans(options.formats):
        path = work / "candidate.gguf"
        imatrix = None if plan.rounding == "plain" else importance
        quantize_gguf(gguf, path, plan, imatrix=imatrix, threads=threads)
        quality = compare(path, reference, threads=threads)
        yield {
            "file": f"{plan.output} {'untied' if plan.untie else 'tied'}, {plan.rounding}",
            "megabytes": path.stat().st_size // 1_000_000,
            "kl_mean": round(quality.kl_mean, 4),
            "top1": round(quality.top1, 4),
            **_both(quality.perplexity, oracle_perplexity(path, scored, options.windows, threads)),
        }
        path.unlink()


def _both(ours: float, theirs: float) -> dict[str, float]:
    return {
        "perplexity": round(ours, 4),
        "llama_perplexity": theirs,
        "percent_apart": round(100 * abs(ours / theirs - 1), 3),
    }


def main() -> None:
    """Print the rows and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=_MODEL)
    parser.add_argument("--text", type=Path, help="default: WikiText-2's validation text")
    parser.add_argument("--windows", type=int, default=6, help="of 512 tokens that are scored")
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    options.text = options.text or shared_folder() / "data" / "wikitext2" / "valid.txt"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for row in run(options, Path(name)):
            print(row, flush=True)
            rows.append(row)
    worst = max(row["percent_apart"] for row in rows)
    result = {"windows": options.windows, "rows": rows, "most_percent_apart": worst}
    print("wrote", report.write(NAME, result, PACKAGES))


if __name__ == "__main__":
    main()
