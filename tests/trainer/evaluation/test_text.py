"""The probability of a text, against a loop that asks for one token at a time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from tests.trainer.evaluation.checkpoints import CONTEXT, WORDS, make, sentences
from trainer.errors import DataError, RecipeError
from trainer.evaluation.opening import OpenCheckpoint, open_checkpoint
from trainer.evaluation.text import score_text, score_with, windows

TEXT = "amber birch cedar delta ember"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OpenCheckpoint]:
    folder = tmp_path_factory.mktemp("checkpoints")
    tasks = ("decoder", "recurrent", "masked", "classifier")
    return {task: open_checkpoint(make(task).save(folder / task), "cpu") for task in tasks}


@torch.no_grad()
def naive(checkpoint: OpenCheckpoint, text: str) -> list[float]:
    """Return log p of each token given the begin token and those before it."""
    special = checkpoint.tokenizer.special
    ids = [special.begin, *checkpoint.tokenizer.encode(text).tolist()]
    found = []
    for at in range(1, len(ids)):
        logits = checkpoint.network({"input_ids": torch.tensor([ids[:at]])})[0, -1]
        found.append(float(logits.double().log_softmax(-1)[ids[at]]))
    return found


@pytest.mark.parametrize("task", ["decoder", "recurrent"])
def test_a_chain_is_scored_token_by_token(
    task: str, checkpoints: dict[str, OpenCheckpoint]
) -> None:
    score = score_with(checkpoints[task], TEXT)
    expected = naive(checkpoints[task], TEXT)
    assert [one.logprob for one in score.tokens] == pytest.approx(expected, abs=1e-5)
    assert [one.token for one in score.tokens] == TEXT.split()
    assert score.measure == "log-likelihood"
    assert score.total == pytest.approx(sum(expected), abs=1e-4)
    assert score.scored == 5
    assert score.perplexity == pytest.approx(math.exp(-sum(expected) / 5), rel=1e-5)
    bits = -sum(expected) / math.log(2)
    assert score.bits_per_byte == pytest.approx(bits / len(TEXT.encode()), rel=1e-5)


@pytest.mark.parametrize("task", ["decoder", "recurrent"])
def test_next_tokens_are_the_likeliest_continuations(
    task: str, checkpoints: dict[str, OpenCheckpoint]
) -> None:
    checkpoint = checkpoints[task]
    whole = score_with(checkpoint, TEXT, top_k=1000).next_tokens
    assert len(whole) == checkpoint.tokenizer.vocabulary_size
    assert sum(one.probability for one in whole) == pytest.approx(1.0)
    chances = [one.probability for one in whole]
    assert chances == sorted(chances, reverse=True)
    first = next(one for one in whole if one.token.strip() in WORDS)
    longer = score_with(checkpoint, f"{TEXT} {first.token.strip()}")
    assert longer.tokens[-1].logprob == pytest.approx(math.log(first.probability), abs=1e-5)
    assert len(score_with(checkpoint, TEXT, top_k=3).next_tokens) == 3


def test_all_texts_of_two_words_are_as_likely_as_their_first_word(
    checkpoints: dict[str, OpenCheckpoint],
) -> None:
    checkpoint = checkpoints["decoder"]
    whole = score_with(checkpoint, "amber", top_k=1000)
    words = {one.token_id: one.probability for one in whole.next_tokens}
    vocabulary = checkpoint.tokenizer.raw.get_vocab()
    pairs = sum(math.exp(score_with(checkpoint, f"amber {word}").total) for word in WORDS)
    known = sum(words[vocabulary[word]] for word in WORDS)
    assert pairs == pytest.approx(math.exp(whole.total) * known, rel=1e-4)


def test_a_text_longer_than_the_context_is_scored_whole(
    checkpoints: dict[str, OpenCheckpoint],
) -> None:
    text = " ".join(sentences(8))
    checkpoint = checkpoints["decoder"]
    score = score_with(checkpoint, text)
    assert len(score.tokens) == len(text.split()) > 2 * CONTEXT
    assert all(one.logprob is not None and one.logprob < 0 for one in score.tokens)
    # Where all of the text fits, windows change nothing.
    head = " ".join(text.split()[: CONTEXT - 1])
    assert [one.logprob for one in score.tokens[: CONTEXT - 1]] == pytest.approx(
        naive(checkpoint, head), abs=1e-5
    )


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(2, 64))
def test_windows_score_each_token_once_with_half_a_context(length: int, context: int) -> None:
    found = windows(length, context)
    scored = [at for _, end, fresh in found for at in range(fresh, end)]
    assert scored == list(range(1, length))
    for start, end, fresh in found:
        assert 0 <= start < end <= length
        assert end - start <= context
        # At least half a context before it, or everything there is.
        assert fresh - start >= min(fresh, context // 2)


@torch.no_grad()
def test_a_masked_model_gives_the_pseudo_log_likelihood(
    checkpoints: dict[str, OpenCheckpoint],
) -> None:
    checkpoint = checkpoints["masked"]
    tokenizer, text = checkpoint.tokenizer, "amber birch"
    score = score_with(checkpoint, text, top_k=1000)
    ids = tokenizer.encode(text, special=True).tolist()
    expected = []
    for at in range(1, len(ids) - 1):
        masked = [*ids[:at], tokenizer.special.mask, *ids[at + 1 :]]
        logits = checkpoint.network({"input_ids": torch.tensor([masked])})[0, at]
        expected.append(float(logits.double().log_softmax(-1)[ids[at]]))
    assert [one.logprob for one in score.tokens] == pytest.approx(expected, abs=1e-5)
    assert score.measure == "pseudo-log-likelihood"
    assert score.total == pytest.approx(sum(expected), abs=1e-4)
    assert sum(one.probability for one in score.next_tokens) == pytest.approx(1.0)


def test_a_masked_model_takes_no_more_than_its_context(
    checkpoints: dict[str, OpenCheckpoint],
) -> None:
    with pytest.raises(DataError, match="takes 13 at most"):
        score_with(checkpoints["masked"], " ".join(sentences(8)))


def test_without_a_begin_token_the_first_one_has_no_score(
    checkpoints: dict[str, OpenCheckpoint],
) -> None:
    checkpoint = checkpoints["decoder"]
    tokenizer = checkpoint.tokenizer
    special = tokenizer.special
    tokenizer.special = dataclasses.replace(special, begin=None)
    try:
        score = score_with(checkpoint, TEXT)
        single = score_with(checkpoint, "amber")
    finally:
        tokenizer.special = special
    assert score.tokens[0].logprob is None
    assert score.scored == 4
    assert score.total == pytest.approx(sum(one.logprob or 0.0 for one in score.tokens))
    assert (single.scored, single.perplexity, single.bits_per_byte) == (0, None, None)
    assert single.next_tokens


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_no_text_is_an_error(text: str, checkpoints: dict[str, OpenCheckpoint]) -> None:
    with pytest.raises(DataError, match="no text"):
        score_with(checkpoints["decoder"], text)


def test_a_classifier_has_no_probability_of_a_text(checkpoints: dict[str, OpenCheckpoint]) -> None:
    with pytest.raises(RecipeError, match="made for 'classification'"):
        score_with(checkpoints["classifier"], TEXT)


def test_a_directory_is_scored_the_same_and_goes_to_json(tmp_path: Path) -> None:
    made = make("decoder")
    score = score_text(made.export(tmp_path / "model"), TEXT, top_k=2, device="cpu")
    value = json.loads(json.dumps(score.to_dict(), allow_nan=False))
    assert value["total_logprob"] == score.total
    assert [one["token"] for one in value["tokens"]] == TEXT.split()
    assert len(value["next"]) == 2


@torch.no_grad()
def test_transformers_finds_a_text_as_probable(checkpoints: dict[str, OpenCheckpoint]) -> None:
    checkpoint = checkpoints["decoder"]
    stock = AutoModelForCausalLM.from_pretrained(checkpoint.folder, local_files_only=True).eval()
    begin = checkpoint.tokenizer.special.begin
    ids = torch.tensor([[begin, *checkpoint.tokenizer.encode(TEXT).tolist()]])
    loss = float(stock(input_ids=ids, labels=ids).loss)
    assert -score_with(checkpoint, TEXT).total / 5 == pytest.approx(loss, rel=1e-5)


@torch.no_grad()
def test_transformers_finds_a_masked_text_as_probable(
    checkpoints: dict[str, OpenCheckpoint],
) -> None:
    checkpoint = checkpoints["masked"]
    stock = AutoModelForMaskedLM.from_pretrained(checkpoint.folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    ids = tokenizer("amber birch", return_tensors="pt").input_ids
    total = 0.0
    for at in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, at] = tokenizer.mask_token_id
        total += float(stock(input_ids=masked).logits[0, at].log_softmax(-1)[ids[0, at]])
    assert score_with(checkpoint, "amber birch").total == pytest.approx(total, rel=1e-5)


def test_order_matters_to_a_chain(checkpoints: dict[str, OpenCheckpoint]) -> None:
    orders = itertools.islice(itertools.permutations(TEXT.split()), 6)
    totals = {round(score_with(checkpoints["decoder"], " ".join(one)).total, 4) for one in orders}
    assert len(totals) > 1
