"""The benchmark of encoders runs through, on models of a few kilobytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_models import tiny_classifier_dir, tiny_encoder_dir

SENTENCES = ["a good film", "what a bad one", "the end is near", "no", "it is so so", "fine then"]


def test_the_tiny_benchmark_gives_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("optimum.onnxruntime", reason="needs casemate[export]")
    from benchmarks import onnx_encoder

    lines = [f"{text} {number}\t{number % 2}" for number in range(4) for text in SENTENCES]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    model, classifier = tiny_encoder_dir(tmp_path / "m"), tiny_classifier_dir(tmp_path / "c")
    result = onnx_encoder.main(
        [
            *("--tiny", "--promise", "0.5", "--data", str(tmp_path)),
            *("--model", str(model), "--classifier", str(classifier)),
        ]
    )
    forms = {row["form"]: row for row in result["embedder"]}
    assert set(forms) == {"torch", "fp32", "int8", "int8 mixed", "optimum int8"}
    assert forms["fp32"]["similarity_spearman"] == 1
    assert forms["int8"]["megabytes"] < forms["fp32"]["megabytes"]
    assert all(row["32x128"]["sentences_per_second"] > 0 for row in forms.values())
    assert {row["form"] for row in result["classifier"]} == set(forms) - {"torch"}
