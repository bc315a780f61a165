"""The tuner on Gemma 3 270M: what it finds by itself, in how long, at which quality.

The reference is the Q4_K_M file as shipped. Quality is judged on WikiText-2's validation
text, importance is gathered on a later part of it that nothing is judged on. The search is
given a promise of KL 0.07 and twenty minutes; from the one record this says what is chosen
for one client and for sixteen, what the best is at KL 0.03, what error feedback and an
importance matrix gain over plain rounding at equal size, and that no ruined form (4-bit
layers) was chosen.

    python -m benchmarks.tuner [--tiny] [--budget 20m] [--work FOLDER]

It wants a quiet machine. `--tiny` shows in some minutes that it runs, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.prompts import shared_folder
from compiler.report.entry import Entry
from compiler.report.page import write_page
from compiler.report.picture import write_picture
from compiler.report.record import Compilation, encode_record
from compiler.targets.choosing import this_machine
from compiler.tune.choose import Load
from compiler.tune.clock import parse_duration
from compiler.tune.gguf_bench import GgufSource
from compiler.tune.gguf_tune import tune_gguf
from compiler.tune.promise import make_promise
from compiler.tune.request import Texts, TuneRequest

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "build" / "models" / "gemma-3-270m-q4_k_m.gguf"
PICTURE = ROOT / "docs" / "pictures" / "gemma-270m-front.svg"
NAME = "tuner"
MAX_KL, NEAR_KL = 0.07, 0.03
ONE, SIXTEEN = "decode@1", "decode@16"
EVALUATION = slice(0, 40_000)
CALIBRATION = slice(200_000, 260_000)
TINY_CALIBRATION = slice(200_000, 215_000)
PACKAGES = ("llama-cpp-python", "gguf", "numpy")


def texts(tiny: bool) -> Texts:
    """Return what is judged on, and another part of the text for importance."""
    path = shared_folder() / "data" / "wikitext2" / "valid.txt"
    text = path.read_text(encoding="utf-8")
    return Texts(text[EVALUATION], text[TINY_CALIBRATION if tiny else CALIBRATION])


def run(arguments: argparse.Namespace, work: Path) -> Compilation:
    """Search once and return the record."""
    target = this_machine()
    given = texts(arguments.tiny)
    request = TuneRequest(
        source=MODEL,
        target=target,
        promise=make_promise(None, max_kl=MAX_KL),
        load=Load(1),
        folder=work,
        texts=given,
        budget_seconds=parse_duration(arguments.budget),
        rounds=1 if arguments.tiny else 5,
        command=("python", "-m", "benchmarks.tuner", "--budget", arguments.budget),
    )
    how = GgufSource(
        MODEL,
        given.evaluation,
        given.calibration,
        threads=target.cores,
        window=256 if arguments.tiny else 512,
        windows=2 if arguments.tiny else 3,
        seconds=0.3 if arguments.tiny else 1.0,
    )
    return tune_gguf(request, _progress, source=how).record


def _progress(label: str, fraction: float) -> None:
    print(f"{time.strftime('%H:%M:%S')} {fraction:4.0%} {label}", file=sys.stderr, flush=True)


def summary(record: Compilation) -> dict[str, Any]:
    """Return the figures that are asked for, from the record alone."""
    timed = [one for one in record.candidates if one.rates and one.dropped is None]
    within = [one for one in timed if _kl(one) <= MAX_KL]
    near = [one for one in timed if _kl(one) <= NEAR_KL]
    ruined = [one for one in record.candidates if one.dropped is not None]
    return {
        "seconds": record.seconds,
        "candidates": len(record.candidates),
        "chosen": described(record.entry(record.chosen)),
        "best_for_16": described(max(within, key=lambda one: _gain(one, SIXTEEN))),
        "best_near_lossless": described(max(near, key=lambda one: _gain(one, ONE))),
        "front": [described(record.entry(digest)) for digest in record.front],
        "rounding": rounding(record),
        "refused": [
            {"label": one.candidate.label, "kl": round(_kl(one), 4), "why": one.dropped}
            for one in ruined
        ],
        "notes": list(record.notes),
    }


def described(one: Entry) -> dict[str, Any]:
    """Return one candidate's figures."""
    quality = one.quality
    gains = {
        name: [round(value, 3) for value in (rate.ratio.median, rate.ratio.low, rate.ratio.high)]
        for name, rate in sorted(one.rates.items())
    }
    return {
        "label": one.candidate.label,
        "size_mb": round((one.size_bytes or 0) / 1e6, 1),
        "kl": round(_kl(one), 4),
        "perplexity_ratio": round(quality.perplexity_ratio or 0, 4) if quality else None,
        "top1": round(quality.top1 or 0, 4) if quality else None,
        "gain_median_low_high": gains,
        "per_second": {name: round(rate.rate.median, 1) for name, rate in one.rates.items()},
        "peak_mib": round(one.peak_mib or 0),
    }


def rounding(record: Compilation) -> list[dict[str, Any]]:
    """Return, for each format that was rounded in several ways, the divergences."""
    groups: dict[str, dict[str, float]] = {}
    for one in record.candidates:
        plan = dict(one.candidate.plan)
        if one.quality is None or one.candidate.family not in ("output", "whole"):
            continue
        how = str(plan.pop("rounding"))
        key = json.dumps(plan, sort_keys=True)
        groups.setdefault(key, {})[how] = round(_kl(one), 4)
    return [{"plan": json.loads(key), "kl": kls} for key, kls in groups.items() if len(kls) > 1]


def _kl(one: Entry) -> float:
    found = one.quality.kl_mean if one.quality is not None else None
    return float("inf") if found is None else found


def _gain(one: Entry, rate: str) -> float:
    return one.rates[rate].ratio.median


def main() -> None:
    """Run the search and write result and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="Show that it runs; write nothing.")
    parser.add_argument("--budget", default="20m")
    parser.add_argument("--work", type=Path, help="Work folder; a search there goes on.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="casemate-tuner-") as name:
        work = arguments.work or Path(name)
        record = run(arguments, work)
        found = summary(record)
        print(json.dumps(found, indent=1))
        if arguments.tiny:
            write_picture(work / "front.svg", record)
            write_page(work / "compilation.html", record)
            return
        report.write(NAME, found, PACKAGES)
        PICTURE.parent.mkdir(exist_ok=True)
        write_picture(PICTURE, record)
        (ROOT / "build" / "tuner.json").write_bytes(encode_record(record))
        write_page(ROOT / "build" / "tuner.html", record)


if __name__ == "__main__":
    main()
