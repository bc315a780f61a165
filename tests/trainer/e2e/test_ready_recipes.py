"""Ready recipes by the commands alone: an encoder, what is finetuned of it, word vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.trainer.e2e.small import answer, small_decoder, typed, write_reviews, write_text
from trainer.recipe.ready import ready_names

COMMON = (
    "run.device=cpu",
    "optimizer.warmup_steps=2",
    "evaluation.every_steps=0",
    "checkpoint.every_steps=0",
    "report.tensorboard=false",
    "report.html=false",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    write_reviews(folder / "train.tsv", 240)
    write_reviews(folder / "dev.tsv", 60, seed=2)
    write_text(folder / "corpus.txt")
    return folder


@pytest.fixture(scope="module")
def encoder(data: Path) -> Path:
    """A small encoder pretrained by masked language modelling."""
    words = (
        *("encoder-small", f"data.train={data / 'corpus.txt'}", "data.format=lines", *COMMON),
        *("model.layers=1", "model.width=32", "model.heads=2", "model.inner_width=64"),
        *("tokenizer.vocabulary_size=60", "data.sequence_length=32", "run.steps=6"),
        *("batch.sequences=8", "batch.micro_sequences=4", "data.validation_fraction=0.1"),
    )
    summary = answer(typed("train", *words, "-o", data / "encoder", "--json"))
    return Path(summary["checkpoint"])


def test_finetuning_keeps_what_is_frozen_and_learns_the_rest(data: Path, encoder: Path) -> None:
    words = (
        *("sentiment-minilm", "--model", encoder, f"data.train={data / 'train.tsv'}"),
        *(f"data.validation={data / 'dev.tsv'}", *COMMON, "run.steps=10", "batch.sequences=16"),
        *("parts.freeze=features", "optimizer.learning_rate=0.01", "data.sequence_length=32"),
    )
    summary = answer(typed("finetune", *words, "-o", data / "tuned", "--json"))
    before = load_file(encoder / "model.safetensors")
    after = load_file(Path(summary["checkpoint"]) / "model.safetensors")
    layers = [name for name in after if "encoder.layer" in name or "word_embeddings" in name]
    assert layers
    for name in layers:
        # The stock classes say `bert.` before the encoder, or not, as the task wants.
        own = name if name in before else name.removeprefix("bert.")
        assert (before[own] == after[name]).all(), name
    assert any("classifier" in name for name in after)
    assert summary["evaluation"]["accuracy"] >= 0.4


def test_private_finetuning_starts_from_what_labels_mean(data: Path, encoder: Path) -> None:
    texts = '["0=the keeper","1=of the light"]'
    words = (
        *("sentiment-private", "--private", "--model", encoder, f"data.train={data / 'train.tsv'}"),
        *(*COMMON, "run.steps=2", "batch.sequences=32", "batch.micro_sequences=16"),
        *("data.sequence_length=32", f"parts.label_texts={texts}"),
    )
    summary = answer(typed("finetune", *words, "-o", data / "private", "--json"))
    assert (summary["finished"], summary["steps"]) == (True, 2)
    assert (Path(summary["checkpoint"]) / "privacy.json").is_file()


def test_a_private_decoder_is_planned_trained_and_writes_texts(data: Path) -> None:
    corpus, texts = data / "corpus.txt", data / "texts.jsonl"
    lines = corpus.read_text().splitlines()[:120]
    texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    small = small_decoder(corpus, "data.sequence_length=48", "run.steps=4")
    public = answer(typed("train", *small, "-o", data / "public", "--json"))["checkpoint"]
    ledger = data / "texts.ledger"
    budget = ("--dataset", "texts", "--epsilon", "9", "--delta", "4e-3")
    answer(typed("privacy", "ledger", "init", ledger, *budget, "--json"))
    words = (
        *("text-private", f"model.source={public}", f"data.train={texts}", "run.device=cpu"),
        *("run.steps=2", "batch.sequences=32", "batch.micro_sequences=16"),
        *("optimizer.warmup_steps=1", "data.sequence_length=48", "report.tensorboard=false"),
        *(f"privacy.ledger={ledger}", "privacy.dataset=texts", "evaluation.samples=0"),
    )
    planned = answer(typed("privacy", "plan", *words, "--json"))
    assert planned["plan"]["units"] == 120
    made = answer(typed("finetune", *words, "--private", "-o", data / "decoder", "--json"))
    claimed = made["privacy"]
    assert claimed["epsilon"] == pytest.approx(planned["plan"]["epsilon"])
    assert claimed["released"] == pytest.approx(planned["ledger"]["with_this_run"])
    assert Path(claimed["report"]).is_file()
    assert Path(claimed["page"]).is_file()
    assert claimed["ledger"] == str(ledger)
    shown = typed("privacy", "ledger", "show", ledger).stdout
    assert f"{9 - claimed['released']:.3f} remains" in shown
    assert "a smaller delta gives a larger epsilon" in shown
    written = data / "written.jsonl"
    answer(
        typed("privacy", "synthesize", data / "decoder", "--count", "3", "-o", written, "--json")
    )
    assert len(written.read_text().splitlines()) == 3


def test_word_embeddings_train_and_name_neighbours(data: Path) -> None:
    words = (
        *("word-embeddings", f"data.train={data / 'corpus.txt'}", "tokenizer.minimum_count=1"),
        *("model.width=16", "run.steps=2", "report.html=false", "report.tensorboard=false"),
    )
    summary = answer(typed("train", *words, "-o", data / "vectors", "--json"))
    assert summary["finished"] is True
    near = answer(typed("evaluate", data / "vectors", "--text", "keeper", "--top-k", "3", "--json"))
    assert len(near["nearest"]) == 3


# Each has a test of its own above.
TUNED = ("sentiment-minilm", "sentiment-private", "text-private")
SMALLER: dict[str, tuple[str, ...]] = {
    "char-shakespeare-cpu": (),
    "decoder-124m-h100": ("tokenizer.vocabulary_size=300", "precision.compile=false"),
    "decoder-1b-fsdp": (
        *("tokenizer.vocabulary_size=300", "precision.compile=false", "model.kv_heads=1"),
    ),
    "encoder-small": ("tokenizer.vocabulary_size=60",),
    "seq2seq-small": ("tokenizer.vocabulary_size=400",),
    "rnn-adaptive-softmax": ("tokenizer.vocabulary_size=30", "objective.cutoffs=8,16"),
    "cnn-classifier": ("tokenizer.vocabulary_size=40",),
    "lstm-classifier": ("tokenizer.vocabulary_size=40",),
}


@pytest.mark.parametrize("name", sorted(SMALLER))
def test_a_ready_recipe_runs_as_it_is_but_small(data: Path, name: str) -> None:
    corpus = data / ("train.tsv" if name.endswith("classifier") else "corpus.txt")
    words = (
        *(name, f"data.train={corpus}", "data.validation_fraction=0.2", "run.steps=2"),
        *(*COMMON, "optimizer.warmup_steps=1", "model.layers=2", "model.width=32"),
        *("model.heads=2", "model.inner_width=64", "data.sequence_length=32"),
        *("batch.sequences=8", "batch.micro_sequences=4", "evaluation.patience=0"),
        *("evaluation.sequences=8", "evaluation.samples=0", *SMALLER[name]),
    )
    summary = answer(typed("train", *words, "-o", data / "small" / name, "--json"))
    assert (summary["finished"], summary["steps"]) == (True, 2)
    assert (Path(summary["checkpoint"]) / "model.safetensors").is_file()
    measured = answer(typed("evaluate", data / "small" / name, corpus, "--limit", "4", "--json"))
    assert measured["loss"] > 0


def test_every_ready_recipe_is_run_here() -> None:
    assert {*SMALLER, *TUNED, "word-embeddings"} == set(ready_names())
