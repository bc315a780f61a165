"""Checkpoints of the trainer through the whole compilation, probes included."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from security.bundle.opening import open_unsigned
from tests.trainer.e2e.small import answer, small_decoder, typed, write_reviews, write_text


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character model's checkpoint."""
    folder = tmp_path_factory.mktemp("decoder")
    corpus = write_text(folder / "corpus.txt")
    answer(typed("train", *small_decoder(corpus), "-o", folder / "run", "--json"))
    return folder / "run/final"


def test_a_trained_decoder_becomes_a_bundle_that_answers(decoder: Path, tmp_path: Path) -> None:
    made = answer(typed("compile", decoder, "--no-tune", "-o", tmp_path / "out", "--json"))
    assert (made["task"], made["variants"][0]["format"]) == ("generate", "q8_0")
    assert made["probes_recorded"] is True
    with open_unsigned(tmp_path / "out") as opened:
        training = json.loads(opened.files["attestations/training.json"].read())
        conversion = json.loads(opened.files["attestations/conversion.json"].read())
        model = opened.files["variants/default/model.gguf"].sha256
    weights = hashlib.sha256((decoder / "model.safetensors").read_bytes()).hexdigest()
    record = training["predicate"]["record"]
    assert record["files"]["model.safetensors"]["sha256"] == weights
    assert conversion["predicate"]["source"]["kind"] == "checkpoint"
    assert conversion["predicate"]["source"]["files"]["model.safetensors"] == weights
    for statement in (training, conversion):
        assert statement["subject"][0]["digest"]["sha256"] == model
    export = conversion["predicate"]["export"]
    assert export["weights"] == {"model.safetensors": weights}
    assert export["tokens_checked"] > 0
    assert export["tools"]["gguf"]
    # A character model drops what it has no token for, and its user is told.
    assert export["notes"] == made["notes"]
    assert made["notes"]


def test_a_changed_checkpoint_is_refused(decoder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(decoder, tmp_path / "changed")
    weights = changed / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    result = typed("compile", changed, "--no-tune", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_a_network_of_ours_becomes_a_bundle_and_loses_no_accuracy(tmp_path: Path) -> None:
    reviews = write_reviews(tmp_path / "train.tsv", 200)
    words = (
        "cnn-classifier",
        f"data.train={reviews}",
        "run.steps=20",
        "optimizer.warmup_steps=2",
        "tokenizer.vocabulary_size=28",
    )
    more = ("evaluation.every_steps=20", "checkpoint.every_steps=20", "model.width=32")
    answer(typed("train", *words, *more, "-o", tmp_path / "run", "--json"))
    judged = ("--labelled", reviews, "--max-accuracy-drop", "0.05")
    made = answer(
        typed(
            "compile",
            tmp_path / "run/final",
            "--no-tune",
            *judged,
            "-o",
            tmp_path / "out",
            "--json",
        )
    )
    assert made["probes_recorded"] is True
    assert made["task"] == "classify"
    with open_unsigned(tmp_path / "out") as opened:
        conversion = json.loads(opened.files["attestations/conversion.json"].read())
    assert conversion["predicate"]["export"]["opset"] == 18
    assert conversion["predicate"]["texts"]["labelled"] is True
    quality = made["variants"][0]["quality"]
    assert quality is None or quality["accuracy_drop"] <= 0.05
