"""Speed and memory of training on GPUs: two ready recipes, and the private step.

    python -m benchmarks.gpu_training [--steps 50] [--tiny] [--only RUN] [KEY=VALUE ...]

- decoder-124m-h100 on one GPU, and on all where there are several (DDP);
- decoder-1b-fsdp on all GPUs (FSDP2), with updates of 8 passes a rank, not 64 in all;
- `private` on one GPU: `benchmarks.private_step`, a private step beside an ordinary one and
  opacus, with LoRA and whole, on a decoder and an encoder. It writes a result of its own.

The recipes run as `casemate train` runs them: text of made-up words (their counts fall
off as Zipf's law says) is written to files, a tokenizer of the recipe's size is trained
on it, shards are written; then assembly, loader and updates are the product's own, one
process for each GPU. Only validation, checkpoints and export are left out.

The clock runs over whole updates after the warm-up, from one synchronized point to
another. MFU counts 6 N + 12 L D T operations a token (PaLM, appendix B), not those that
activation checkpointing repeats, against the maker's dense bfloat16 peak. Memory is the
largest allocation of a rank.

Without a GPU it exits with code 2. `--tiny` runs the same at a tiny size, on CPUs too, and
writes no result; so do overrides such as `batch.micro_sequences=16` (with `--only`), which
are for looking around, and `--profile`, which prints the kernels that took longest.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import report
from trainer.distribution.launch import launch
from trainer.errors import RecipeError
from trainer.recipe.parse import load_recipe
from trainer.reporting.mfu import peak_flops

NO_GPU = 2
SEED = 1337
WORDS = 120_000
WORD_LETTERS = 12
LINE_WORDS = 16
PRIVATE = "private"


@dataclass(frozen=True)
class Run:
    """A recipe to measure.

    Attributes:
        name: of the run.
        recipe: ready recipe.
        passes: micro-batches of an update; 0 leaves the recipe's batch.
        all_gpus: whether the ranks are all GPUs there are, or one.
        tiny: what `--tiny` changes besides TINY.
    """

    name: str
    recipe: str
    passes: int
    all_gpus: bool
    tiny: tuple[str, ...] = ()


RUNS = (
    Run("124m", "decoder-124m-h100", 0, False),
    Run("124m-ddp", "decoder-124m-h100", 0, True),
    Run("1b-fsdp", "decoder-1b-fsdp", 8, True, tiny=("model.kv_heads=1", "model.inner_width=128")),
)
TINY = (
    "model.layers=2",
    "model.width=64",
    "model.heads=2",
    "tokenizer.vocabulary_size=512",
    "data.sequence_length=64",
    "objective.chunk_tokens=64",
    "batch.sequences=8",
    "batch.micro_sequences=2",
    # To compile for a CPU takes longer than all the rest.
    "precision.compile=false",
    "run.device=cpu",
)


@dataclass(frozen=True)
class Pace:
    """How long a run is measured: updates before the clock starts, and under it."""

    warm_up: int
    steps: int


def write_corpus(folder: Path, words: int, seed: int = SEED) -> Path:
    """Write text of made-up words, whose counts fall off with their rank."""
    draw = np.random.default_rng(seed)
    letters = draw.integers(ord("a"), ord("z") + 1, size=(WORDS, WORD_LETTERS), dtype=np.uint8)
    lengths = draw.integers(3, WORD_LETTERS + 1, size=WORDS)
    known = [row[:n].tobytes().decode("ascii") for row, n in zip(letters, lengths, strict=True)]
    chances = 1.0 / (np.arange(WORDS) + 2.7)
    chosen = draw.choice(WORDS, size=words, p=chances / chances.sum())
    text = [known[number] for number in chosen]
    lines = (" ".join(text[at : at + LINE_WORDS]) for at in range(0, words, LINE_WORDS))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    return folder


def overrides(run: Run, ranks: int, corpus: Path, cache: Path, *, tiny: bool) -> list[str]:
    """Return what a run changes in its recipe."""
    words = [f"data.train={corpus}", f"data.cache={cache}", "data.validation_fraction=0"]
    if tiny:
        return words + list(TINY) + list(run.tiny)
    if run.passes:
        micro = load_recipe(run.recipe).recipe.batch.micro_sequences
        words.append(f"batch.sequences={run.passes * micro * ranks}")
    return words


def ranks_for(run: Run, gpus: int) -> int:
    """Return how many ranks share a run: a power of two, which divides every batch here."""
    return 1 << (gpus.bit_length() - 1) if run.all_gpus else 1


def start(
    run: Run, ranks: int, words: Sequence[str], pace: Pace, folder: Path, *, profiled: bool
) -> dict[str, Any]:
    """Start the ranks of a run and return its figures.

    Raises:
        SystemExit: the recipe is not one, or a rank failed and has said why.
    """
    try:
        load_recipe(run.recipe, words)
    except RecipeError as problem:
        raise SystemExit(str(problem)) from None
    result = folder / f"{run.name}.json"
    command = [sys.executable, "-m", "benchmarks.gpu_rank", run.recipe, "--result", str(result)]
    command += ["--steps", str(pace.steps), "--warm-up", str(pace.warm_up)]
    command += [*(["--profile"] if profiled else []), *words]
    code = launch(command, ranks)
    if code:
        raise SystemExit(code)
    return {"run": run.name, **json.loads(result.read_text())}


def machine(gpus: int) -> dict[str, Any]:
    """Describe the machine."""
    names = [torch.cuda.get_device_name(number) for number in range(gpus)]
    return {
        "gpus": names,
        "gpu_memory_gib": [
            round(torch.cuda.get_device_properties(number).total_memory / 2**30, 1)
            for number in range(gpus)
        ],
        "peak_teraflops": [None if (p := peak_flops(name)) is None else p / 1e12 for name in names],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def line(figures: dict[str, Any]) -> str:
    """Return a run's figures on one line, for people."""
    mfu, memory = figures["mfu"], figures["peak_memory_gib"]
    return "  ".join(
        (
            f"{figures['run']:<9}",
            f"{figures['ranks']} x {figures['device']}",
            f"{figures['tokens_per_second']:,} tokens/s",
            f"MFU {'unknown' if mfu is None else f'{mfu:.1%}'}",
            f"peak {'unknown' if memory is None else f'{memory} GiB'}",
            f"update {figures['update_seconds']['median']:.3f} s",
        )
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=50, help="updates under the clock")
    parser.add_argument("--warm-up", type=int, default=10, help="updates before it")
    parser.add_argument("--tiny", action="store_true", help="a tiny size, on CPUs too")
    parser.add_argument("--profile", action="store_true", help="print the longest kernels")
    names = [*(run.name for run in RUNS), PRIVATE]
    parser.add_argument("--only", choices=names, help="measure one run alone")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the recipe")
    return parser.parse_intermixed_args()


def chosen(only: str | None, gpus: int) -> list[Run]:
    """Return the runs: the one that was named, or all that differ on so many GPUs."""
    if only:
        return [run for run in RUNS if run.name == only]
    return [run for run in RUNS if gpus > 1 or run.name != "124m-ddp"]


def private_step(*, tiny: bool) -> None:
    """Measure the private step in a process of its own, which needs the memory.

    Raises:
        SystemExit: it failed, and has said why.
    """
    command = [sys.executable, "-m", "benchmarks.private_step"]
    command += ["--device", "cuda" if torch.cuda.is_available() else "cpu"]
    if tiny:
        command += ["--tiny", "--rounds", "1", "--seconds", "0.01", "--threads", "1"]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(code)


def main() -> None:
    """Run the benchmark and write its result."""
    options = arguments()
    pace = Pace(max(1, options.warm_up), max(1, options.steps))
    runs = chosen(options.only, torch.cuda.device_count())
    gpus = torch.cuda.device_count()
    if not gpus and not options.tiny:
        print("there is no GPU here that torch can use; --tiny tries this on CPUs", file=sys.stderr)
        raise SystemExit(NO_GPU)
    about = machine(gpus)
    print(", ".join(about["gpus"]) or f"no GPU: {platform.processor() or platform.machine()}")
    sys.stdout.flush()
    if options.only == PRIVATE:
        private_step(tiny=options.tiny)
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="casemate-bench-") as name:
        folder = Path(name)
        corpus = write_corpus(folder / "corpus", 20_000 if options.tiny else 4_000_000)
        for run in runs:
            ranks = ranks_for(run, 2 if options.tiny else gpus)
            words = overrides(run, ranks, corpus, folder / "shards", tiny=options.tiny)
            words += options.overrides
            found.append(start(run, ranks, words, pace, folder, profiled=options.profile))
            print(line(found[-1]), flush=True)
    if options.tiny or options.only or options.overrides:
        print(json.dumps(found, indent=2))
        return
    result = {"machine": about, "runs": found}
    packages = report.TRAINING_PACKAGES
    print("wrote", report.write("gpu_training", result, packages, target="bench-gpu"), flush=True)
    private_step(tiny=False)


if __name__ == "__main__":
    main()
