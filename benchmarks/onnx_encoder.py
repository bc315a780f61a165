"""MiniLM in 8 bits: speed and quality against fp32, torch and optimum's own quantization.

    python -m benchmarks onnx_encoder
    python -m benchmarks.onnx_encoder --classifier DIRECTORY --threads 2

Sentences/s at batch 1 and 32 and lengths of 16 and 128 tokens of: torch fp32, ONNX Runtime
fp32, our dynamic int8 (all tensors; and the mixed plan, which leaves in float what the
ranking of sensitivities says until training sentences keep the promised correlation), and
optimum's dynamic int8 made from the very same fp32 graph. Rounds alternate between them,
forwards and backwards, and against optimum the ratio is taken within each round: the median
of these, with the order statistics between which it lies at 95% confidence.
Quality is measured on SST-2's dev sentences, which no plan was chosen on: Spearman's rank
correlation of the similarities of all pairs, and with --classifier (a folder with a BERT
classifier of two labels, negative first) the accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.prompts import shared_folder
from casemate.cpu import detect
from compiler.bundling.encoders import plan_bert
from compiler.onnx_measure.outputs import encode_texts, run_outputs
from compiler.onnx_measure.quality import compare_outputs
from compiler.onnx_measure.result import Feeds
from compiler.onnx_measure.speed import CASES, measure_onnx_speed
from compiler.onnx_quantize.plan import OnnxPlan
from compiler.onnx_quantize.quantize import quantize_onnx
from compiler.onnx_quantize.sensitivity import mixed_plan, rank_sensitivity
from compiler.passes.manager import optimize_onnx

PACKAGES = ("onnxruntime", "onnx", "optimum", "optimum-onnx", "torch", "transformers", "numpy")
_MODEL = Path("build/models/all-MiniLM-L6-v2")
_IDS = 100

Case = tuple[int, int]
Rates = dict[Case, list[float]]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, write its result unless --tiny, and return it."""
    options = _options(arguments)
    data = options.data or shared_folder() / "data" / "sst2"
    with tempfile.TemporaryDirectory() as name:
        result = _run(options, data, Path(name))
    for row in result["embedder"]:
        print(json.dumps(row))
    if options.tiny:
        return result
    print("wrote", report.write("onnx_encoder", result, PACKAGES))
    return result


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=_MODEL, help="folder of the embedder")
    parser.add_argument("--classifier", type=Path, help="folder of an SST-2 classifier")
    parser.add_argument("--data", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--threads", type=int, default=1)
    # With a margin: what holds on training sentences is to hold at 0.99 on others.
    parser.add_argument("--promise", type=float, default=0.995, help="of the mixed plan")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tiny", action="store_true", help="seconds, for a test; writes nothing")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, data: Path, work: Path) -> dict[str, Any]:
    few = 16 if options.tiny else None
    train = _read(data / "train.tsv")[: 12 if options.tiny else 64]
    dev = _read(data / "dev.tsv")[:few]
    seconds, rounds = (0.01, 1) if options.tiny else (1.0, options.rounds)
    folder = work / "embedder"
    forms, plans = _make(options.model, folder, [text for text, _ in train], options.promise)
    feeds = _encode(options.model, [text for text, _ in dev])
    rates = _speeds(forms, options.model, options.threads, seconds, rounds)
    reference = run_outputs(forms["fp32"], feeds)
    rows = []
    for form, per_case in rates.items():
        row: dict[str, Any] = {"form": form}
        if form in forms:
            quality = compare_outputs(reference, run_outputs(forms[form], feeds))
            row |= {
                "megabytes": round(forms[form].stat().st_size / 1e6, 1),
                "similarity_spearman": round(quality.similarity_spearman, 5),
                "cosine_mean": round(quality.cosine_mean, 5),
            }
        rows.append(row | _figures(per_case, rates))
    result: dict[str, Any] = {
        "threads": options.threads,
        "rounds": rounds,
        "sentences": len(dev),
        "embedder": rows,
        "tensors_in_float": list(plans["int8 mixed"].excluded),
    }
    if options.classifier is not None:
        result["classifier"] = _classifier(options, work / "classifier", train, dev)
    return result


def _read(path: Path) -> list[tuple[str, int]]:
    """Return the sentences and labels of a file of `text<TAB>label` lines."""
    lines = (line.rsplit("\t", 1) for line in path.read_text().splitlines())
    return [(text, int(label)) for text, label in lines]


def _encode(folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    return [dict(feeds) for feeds in encode_texts(folder / "tokenizer.json", texts, batch=32)]


def _make(
    model: Path, folder: Path, train: list[str], promise: float
) -> tuple[dict[str, Path], dict[str, OnnxPlan]]:
    """Make every ONNX form of a model; return the files and our plans."""
    folder.mkdir()
    feeds = _encode(model, train)
    exported, source = folder / "exported.onnx", folder / "fp32.onnx"
    plan_bert(model).write_model(exported, lambda _: None)
    optimize_onnx(exported, source, check=feeds[:1])
    plain = OnnxPlan(reduce_range=_saturates(), embeddings=True)
    plans = {"int8": plain, "int8 mixed": _mixed(source, plain, feeds, promise)}
    forms = {"fp32": source}
    for form, plan in plans.items():
        forms[form] = folder / f"{form.replace(' ', '_')}.onnx"
        quantize_onnx(source, forms[form], plan)
    forms["optimum int8"] = _stock(source, model, folder / "optimum")
    return forms, plans


def _saturates() -> bool:
    """Whether products of 8 bits lose their top here: x86 without VNNI."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return x86 and not detect().satisfies("x86-64-v4-vnni")


def _mixed(source: Path, plain: OnnxPlan, feeds: Sequence[Feeds], promise: float) -> OnnxPlan:
    reference = run_outputs(source, feeds)
    # Correlation needs an order of many pairs; a classifier's few logits are judged directly.
    embeds = reference.shape[1] > 16

    def accept(path: Path) -> bool:
        quality = compare_outputs(reference, run_outputs(path, feeds))
        return (quality.similarity_spearman if embeds else quality.top1) >= promise

    ranking = rank_sensitivity(source, plain, feeds[:1])
    return mixed_plan(source, plain, ranking, accept, source.parent) or plain


def _stock(source: Path, model: Path, folder: Path) -> Path:
    """Quantize the same graph as optimum does by itself: dynamic, for VNNI, per channel."""
    from optimum.onnxruntime import ORTQuantizer  # type: ignore[import-untyped]
    from optimum.onnxruntime.configuration import (  # type: ignore[import-untyped]
        AutoQuantizationConfig,
    )

    folder.mkdir()
    (folder / "model.onnx").write_bytes(source.read_bytes())
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
    make = AutoQuantizationConfig.avx2 if _saturates() else AutoQuantizationConfig.avx512_vnni
    config = make(is_static=False, per_channel=True)
    quantizer.quantize(save_dir=folder, quantization_config=config)
    return folder / "model_quantized.onnx"


def _speeds(
    forms: dict[str, Path], model: Path, threads: int, seconds: float, rounds: int
) -> dict[str, Rates]:
    """Return sentences/s by form and case, one figure a round, the forms alternating."""
    torch_round = _torch_round(model, threads, seconds)
    rates: dict[str, Rates] = {form: {case: [] for case in CASES} for form in ("torch", *forms)}
    for number in range(rounds):
        for case in CASES:
            rates["torch"][case].append(torch_round(case))
        # What comes later in a round may find another machine; each form does as often.
        for form, path in list(forms.items())[:: 1 if number % 2 else -1]:
            speed = measure_onnx_speed(path, threads=threads, seconds=seconds, rounds=1)
            for one in speed.cases:
                rates[form][one.batch, one.length].append(one.median)
    return rates


def _torch_round(model: Path, threads: int, seconds: float) -> Callable[[Case], float]:
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    network = AutoModel.from_pretrained(model, local_files_only=True).eval()
    random = np.random.default_rng(0)

    def measure(case: Case) -> float:
        ids = torch.from_numpy(random.integers(0, _IDS, case))
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            network(input_ids=ids, attention_mask=mask)
            runs, began = 0, time.perf_counter()
            while True:
                network(input_ids=ids, attention_mask=mask)
                runs += 1
                passed = time.perf_counter() - began
                if passed >= seconds:
                    return runs * case[0] / passed

    return measure


def _figures(rates: Rates, everything: dict[str, Rates]) -> dict[str, Any]:
    fp32, optimum = everything["fp32"], everything["optimum int8"]
    return {
        f"{batch}x{length}": {
            "sentences_per_second": round(statistics.median(values), 1),
            "low": round(min(values), 1),
            "high": round(max(values), 1),
            "times_fp32": round(
                statistics.median(values) / statistics.median(fp32[batch, length]), 2
            ),
            "times_optimum": _paired(values, optimum[batch, length]),
        }
        for (batch, length), values in rates.items()
    }


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the median of the rounds' ratios, and where it lies at 95% confidence.

    The interval is the sign test's: order statistics, which assume nothing of how rates are
    spread; with less than six rounds it is all of them.
    """
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    total, below, rank = len(ratios), 0.0, 0
    while (below := below + math.comb(total, rank) / 2**total) <= 0.025:
        rank += 1
    first = max(rank - 1, 0)
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(ratios[first], 3),
        "high": round(ratios[total - 1 - first], 3),
    }


def _classifier(
    options: argparse.Namespace,
    folder: Path,
    train: list[tuple[str, int]],
    dev: list[tuple[str, int]],
) -> list[dict[str, Any]]:
    """Return the accuracy of each form of a classifier on labelled sentences."""
    model: Path = options.classifier
    forms, _ = _make(model, folder, [text for text, _ in train], options.promise)
    feeds = _encode(model, [text for text, _ in dev])
    labels = [label for _, label in dev]
    reference = run_outputs(forms["fp32"], feeds)
    rows = []
    for form, path in forms.items():
        quality = compare_outputs(reference, run_outputs(path, feeds), labels)
        right, before = quality.accuracy or 0.0, quality.reference_accuracy or 0.0
        row = {
            "form": form,
            "accuracy": round(right, 4),
            "points_from_fp32": round(100 * (right - before), 2),
            "same_label_as_fp32": round(quality.top1, 4),
            "max_abs_logit_difference": round(quality.max_abs, 4),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
