"""What label smoothing and augmentation change: a text classifier with each on and off.

    python -m benchmarks.ablations [--seeds 3] [--steps 600]

The ready recipe `cnn-classifier` is trained from scratch on SST-2 by `casemate train`,
once for each setting and seed, everything else being equal. The checkpoint is chosen on
a tenth of train that is held out, and measured on the dev split by `casemate evaluate`;
dev chooses nothing. Figures are means over the seeds with their standard deviation,
because one seed more or less says nothing at this size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.site import casemate_json

# SST-2's train split holds about 7,000 words twice or more.
_COMMON = (
    "tokenizer.vocabulary_size=10000",
    "data.columns=text,label",
    "report.tensorboard=false",
    "report.html=false",
    "run.device=cpu",
)
_OFF = {
    "objective.label_smoothing": 0.0,
    "augmentation.word_dropout": 0.0,
    "augmentation.token_deletion": 0.0,
    "augmentation.span_infilling": 0.0,
}
SETTINGS: dict[str, dict[str, float]] = {
    "neither": {},
    "label smoothing 0.1": {"objective.label_smoothing": 0.1},
    "word dropout 0.1": {"augmentation.word_dropout": 0.1},
    "token deletion 0.1": {"augmentation.token_deletion": 0.1},
    "span infilling 0.1": {"augmentation.span_infilling": 0.1},
    "smoothing and word dropout": {
        "objective.label_smoothing": 0.1,
        "augmentation.word_dropout": 0.1,
    },
}
_FIGURES = ("accuracy", "f1_macro", "expected_calibration_error")


def measure(setting: dict[str, float], seed: int, steps: int, data: Path) -> dict[str, float]:
    """Train one classifier and measure it on dev."""
    values = _OFF | setting | {"run.seed": seed, "run.steps": steps}
    words = [f"{name}={value}" for name, value in values.items()]
    with tempfile.TemporaryDirectory(prefix="casemate-ablation-") as scratch:
        output = str(Path(scratch) / "run")
        summary = casemate_json(
            *("train", "cnn-classifier", f"data.train={data / 'train.tsv'}"),
            *(*_COMMON, *words, "-o", output),
        )
        result = casemate_json("evaluate", output, str(data / "dev.tsv"))
    found = {name: float(result["metrics"][name]) for name in _FIGURES}
    return {**found, "loss": float(result["loss"]), "seconds": float(summary["seconds"])}


def row(name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return mean and standard deviation of the runs of one setting."""
    found: dict[str, Any] = {"setting": name}
    for figure in runs[0]:
        values = [single[figure] for single in runs]
        found[figure] = round(statistics.mean(values), 4)
        if len(values) > 1:
            found[f"{figure}_deviation"] = round(statistics.stdev(values), 4)
    print("  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    shared = os.environ.get("CASEMATE_SHARED", "../shared")
    data = Path(shared).resolve() / "data" / "sst2"
    if not data.is_dir():
        parser.error(f"there is no {data}; set CASEMATE_SHARED to the folder of shared data")
    rows = [
        row(name, [measure(setting, seed, options.steps, data) for seed in range(options.seeds)])
        for name, setting in SETTINGS.items()
    ]
    result = {
        "recipe": "cnn-classifier",
        "data": "SST-2; chosen on a held-out tenth of train, measured on dev",
        "seeds": options.seeds,
        "steps": options.steps,
        "torch": version("torch"),
        "rows": rows,
    }
    print("wrote", report.write("ablations", result))


if __name__ == "__main__":
    main()
