"""Every labelled task from files to a checkpoint that does what it was taught."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from tests.trainer.data.tiny import write_jsonl, write_tsv
from tests.trainer.e2e.typed import casemate, command_line, history, invoke, run

NAMES = ("anna", "bert", "carl", "dora")
PLACES = ("paris", "rome", "oslo")
OTHERS = ("went", "to", "saw", "the", "old", "town", "of", "and", "then")
WORDS = (*NAMES, *PLACES, *OTHERS)
KINDS = dict.fromkeys(NAMES, "PER") | dict.fromkeys(PLACES, "LOC") | dict.fromkeys(OTHERS, "O")


def sentences(count: int, words: tuple[str, ...] = WORDS, longest: int = 8) -> list[list[str]]:
    chance = random.Random(0)
    return [[chance.choice(words) for _ in range(chance.randint(3, longest))] for _ in range(count)]


def test_a_tagger_tags_words_as_it_was_shown(tmp_path: Path) -> None:
    rows = [{"text": words, "label": [KINDS[word] for word in words]} for words in sentences(160)]
    path = write_jsonl(tmp_path / "tags.jsonl", rows)
    summary = run(
        "train",
        tmp_path / "run",
        run__steps=50,
        model__family="encoder",
        tokenizer__vocabulary_size=24,
        data__train=path,
        objective__kind="tagging",
        augmentation__token_masking=0.05,
    )
    assert summary["evaluation"]["f1_macro"] > 0.95
    measured = casemate("evaluate", str(tmp_path / "run"), path)
    assert measured["labels"] == ["LOC", "O", "PER"]
    assert measured["metrics"]["accuracy"] > 0.95
    # Whoever reads the directory with transformers sees the same tags at the same words.
    final = tmp_path / "run" / "final"
    network = AutoModelForTokenClassification.from_pretrained(final).eval()
    encoded = AutoTokenizer.from_pretrained(final)("anna went to rome", return_tensors="pt")
    with torch.inference_mode():
        best = network(**encoded).logits.argmax(-1)[0].tolist()
    tags = [network.config.id2label[number] for number in best]
    assert tags[1:-1] == ["PER", "O", "O", "LOC"]


def test_texts_that_belong_together_find_one_another(tmp_path: Path) -> None:
    chance = random.Random(1)
    keys = [(first, second) for first in WORDS for second in WORDS if first < second]
    rows = [
        {"text": f"{first} {second}", "other": f"{chance.choice(WORDS)} {second} {first}"}
        for first, second in keys
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    summary = run(
        "train",
        tmp_path / "run",
        run__steps=60,
        model__family="encoder",
        model__pooling="mean",
        tokenizer__vocabulary_size=24,
        data__train=path,
        data__pair_field="other",
        objective__kind="contrastive",
    )
    losses = [entry["loss"] for entry in history(tmp_path / "run") if entry["kind"] == "step"]
    assert losses[-1] < losses[0] / 2
    measured = casemate("evaluate", str(tmp_path / "run"), path)
    # One text among 120 is found by chance in fewer than 1% of the cases.
    assert measured["metrics"]["recall_at_1"] > 0.5
    assert summary["evaluation"]["mean_reciprocal_rank"] > 0.5


def test_a_sequence_learns_to_become_another(tmp_path: Path) -> None:
    visits = dict(zip(NAMES, WORDS[7:11], strict=True))
    rows = []
    for number, (first, *rest) in enumerate(sentences(240, OTHERS, longest=4)):
        name = NAMES[number % 4]
        rows.append({"text": " ".join((first, name, *rest)), "other": f"{visits[name]} {name}"})
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    summary = run(
        "train",
        tmp_path / "run",
        run__steps=80,
        model__family="seq2seq",
        tokenizer__vocabulary_size=118,
        data__train=path,
        data__pair_field="other",
        objective__kind="sequence-to-sequence",
        optimizer__learning_rate=1e-2,
    )
    assert summary["evaluation"]["accuracy"] > 0.9
    final = tmp_path / "run" / "final"
    tokenizer = AutoTokenizer.from_pretrained(final)
    network = AutoModelForSeq2SeqLM.from_pretrained(final).eval()
    for name, place in visits.items():
        encoded = tokenizer(f"then {name} of old", return_tensors="pt")
        written = network.generate(input_ids=encoded["input_ids"], max_new_tokens=8)
        # The two words and nothing after them: it has learned to end, too.
        assert tokenizer.decode(written[0], skip_special_tokens=True).split() == [place, name]


def sentiment(path: Path, count: int = 240) -> str:
    """Texts whose class is which of two words they hold."""
    rows = [
        (" ".join((*row, "rome" if n % 2 else "oslo", row[0])), "city" if n % 2 else "port")
        for n, row in enumerate(sentences(count, (*NAMES, *OTHERS), longest=7))
    ]
    return write_tsv(path, rows)


CLASSIFIED = {
    "objective__kind": "classification",
    "data__columns": "text,label",
    "augmentation__word_dropout": 0.05,
    "augmentation__token_deletion": 0.05,
}


@pytest.mark.parametrize("family", ["encoder", "decoder", "recurrent", "convolution"])
def test_every_family_that_classifies_learns_to(tmp_path: Path, family: str) -> None:
    path = sentiment(tmp_path / "train.tsv")
    summary = run(
        "train",
        tmp_path / "run",
        run__steps=60,
        model__family=family,
        tokenizer__vocabulary_size=24,
        data__train=path,
        **CLASSIFIED,
    )
    assert summary["evaluation"]["accuracy"] > 0.9
    measured = casemate("evaluate", str(tmp_path / "run"), path)
    assert measured["labels"] == ["city", "port"]
    assert measured["metrics"]["accuracy"] > 0.9


def test_a_checkpoint_is_finetuned_with_its_own_vocabulary(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(" ".join(row) for row in sentences(200)))
    run(
        "train",
        tmp_path / "base",
        run__steps=5,
        model__family="encoder",
        tokenizer__vocabulary_size=24,
        data__train=corpus,
        objective__kind="masked",
    )
    base = tmp_path / "base" / "final"
    summary = run(
        "finetune",
        tmp_path / "tuned",
        run__steps=50,
        model__family="encoder",
        model__source=base,
        data__train=sentiment(tmp_path / "train.tsv"),
        parts__replace="output",
        **CLASSIFIED,
    )
    assert summary["evaluation"]["accuracy"] > 0.9
    tuned = tmp_path / "tuned" / "final"
    vocabularies = [
        json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        for folder in (base, tuned)
    ]
    assert vocabularies[0] == vocabularies[1]
    assert json.loads((tuned / "training.json").read_text())["parent"] is not None


def test_a_cut_run_on_noised_examples_goes_on_bit_for_bit(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "run__steps": 12,
        "model__family": "encoder",
        "model__dropout": 0.1,
        "tokenizer__vocabulary_size": 24,
        "data__train": sentiment(tmp_path / "train.tsv", 60),
        "checkpoint__every_steps": 5,
        "checkpoint__keep_last": 5,
        "checkpoint__keep_best": "false",
        "augmentation__sentence_shuffling": 0.5,
        "augmentation__span_infilling": 0.2,
        **CLASSIFIED,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run("train", whole, **values)
    shutil.copytree(whole, cut)
    # What a run has on disk that was killed after its first checkpoint.
    for gone in ("final", "checkpoints/step-00000010", "checkpoints/step-00000012"):
        shutil.rmtree(cut / gone)
    (cut / "summary.json").unlink()
    run("train", cut, **values)
    first, second = (load_file(folder / "final" / "model.safetensors") for folder in (whole, cut))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert _losses(whole) == _losses(cut)


def _losses(output: Path) -> list[tuple[int, float]]:
    steps = [entry for entry in history(output) if entry["kind"] == "step"]
    return [(entry["step"], entry["loss"]) for entry in steps]


def test_copies_in_validation_are_told_without_showing_them(tmp_path: Path) -> None:
    train = sentiment(tmp_path / "train.tsv", 60)
    shutil.copy(train, tmp_path / "dev.tsv")
    words = command_line(
        "train",
        tmp_path / "run",
        run__steps=5,
        model__family="convolution",
        tokenizer__vocabulary_size=24,
        data__train=train,
        data__validation=tmp_path / "dev.tsv",
        **CLASSIFIED,
    )
    said = invoke(*words).stderr
    assert "warning: 60 of 60 validation texts are in train too" in " ".join(said.split())
    shown = (tmp_path / "run" / "report.html").read_text()
    for line in Path(train).read_text().splitlines():
        text = line.partition("\t")[0]
        assert text not in said
        assert text not in shown
