"""Texts written in batches are those that the network would write alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainer.evaluation.checkpoints import WORDS, make
from trainer.evaluation.opening import OpenCheckpoint, open_checkpoint
from trainer.models.generation import generating
from trainer.privacy.synthesis.continuation import RepeatedContinuation, begin
from trainer.privacy.synthesis.prompts import make_starts
from trainer.privacy.synthesis.settings import Sampling
from trainer.privacy.synthesis.writing import SyntheticText, undrawable, write_texts


@pytest.fixture(scope="module")
def opened(decoder: Path) -> OpenCheckpoint:
    return open_checkpoint(decoder, "cpu")


def written(
    checkpoint: OpenCheckpoint, count: int, prompts: tuple[str, ...] = (), **values: object
) -> list[SyntheticText]:
    starts = make_starts(prompts, checkpoint.tokenizer)
    sampling = Sampling(**values)  # type: ignore[arg-type]
    return list(write_texts(checkpoint, starts, count, sampling, 10))


def test_greedy_texts_of_a_batch_are_those_of_each_prompt_alone(opened: OpenCheckpoint) -> None:
    prompts = (*WORDS[:6], "amber birch cedar")
    together = written(opened, len(prompts), prompts, temperature=0)
    special = opened.tokenizer.special
    for text in together:
        prompt = prompts[text.prompt or 0]
        ids = torch.tensor([[special.begin, *opened.tokenizer.encode(prompt).tolist()]])
        barred = undrawable(opened.tokenizer, opened.network.vocabulary_size)
        expected = ids
        with generating(opened.network):
            for position in range(10):
                logits = opened.network({"input_ids": expected})[0, -1].masked_fill(barred, -9e9)
                if position == 0:
                    logits[special.end] = -9e9
                token = logits.argmax()
                if token == special.end:
                    break
                expected = torch.cat([expected, token.view(1, 1)], dim=1)
        assert text.text == opened.tokenizer.decode(expected[0].numpy(), skip_special=True)
        assert text.tokens == expected.shape[1] - ids.shape[1]
    assert sorted(text.prompt or 0 for text in together) == list(range(7))


def test_a_text_goes_on_alike_when_others_end(opened: OpenCheckpoint) -> None:
    ids = torch.tensor([[0, 3, 4], [0, 5, 6], [0, 7, 8]])
    cached, whole = begin(opened.network), RepeatedContinuation(opened.network)
    with generating(opened.network):
        for texts in (cached, whole):
            texts.feed(ids)
            texts.keep(torch.tensor([0, 2]))
        feed = torch.tensor([[9], [3]])
        torch.testing.assert_close(cached.feed(feed), whole.feed(feed), atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_texts_and_another_does_not(opened: OpenCheckpoint) -> None:
    first = written(opened, 20, seed=7, batch=6)
    assert first == written(opened, 20, seed=7, batch=6)
    assert first != written(opened, 20, seed=8, batch=6)
    # Without a seed nobody can tell the texts beforehand.
    assert written(opened, 20) != written(opened, 20)


def test_the_global_random_state_is_left_alone(opened: OpenCheckpoint) -> None:
    before = torch.get_rng_state()
    written(opened, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_texts_end_by_themselves_or_at_the_limit(opened: OpenCheckpoint) -> None:
    texts = written(opened, 200, seed=1, temperature=2.0)
    assert all(1 <= text.tokens <= 10 for text in texts)
    assert {text.ended for text in texts} == {True, False}
    assert all(text.tokens == 10 for text in texts if not text.ended)
    # Nothing but the vocabulary's words: no special token, no unknown one.
    assert {word for text in texts for word in text.text.split()} <= set(WORDS)


def test_texts_are_not_shown_by_what_prints_them(opened: OpenCheckpoint) -> None:
    (text,) = written(opened, 1, seed=1)
    assert text.text not in repr(text)


def test_a_recurrent_network_writes_too(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make("recurrent").export(tmp_path / "recurrent"), "cpu")
    texts = written(checkpoint, 5, seed=1, batch=3)
    assert len(texts) == 5
    assert texts == written(checkpoint, 5, seed=1, batch=3)
