"""Samples: reproducible, bounded, and of language models only."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.evaluation.checkpoints import make
from trainer.errors import RecipeError
from trainer.evaluation.samples import sample_texts

CPU = torch.device("cpu")


@pytest.mark.parametrize("task", ["decoder", "recurrent"])
def test_the_same_seed_gives_the_same_texts(task: str) -> None:
    made = make(task)
    state = torch.get_rng_state()
    first, again, other = (
        sample_texts(made.network, made.tokenizer, count=3, max_tokens=12, seed=seed, device=CPU)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert len({one.text for one in first}) > 1
    assert torch.equal(torch.get_rng_state(), state)


def test_a_text_has_at_most_so_many_tokens() -> None:
    made = make("decoder")
    for sample in sample_texts(
        made.network, made.tokenizer, count=5, max_tokens=4, seed=1, device=CPU
    ):
        assert len(made.tokenizer.encode(sample.text)) <= 4


def test_a_prompt_is_gone_on_from_and_kept_apart() -> None:
    made = make("decoder")
    (sample,) = sample_texts(
        made.network,
        made.tokenizer,
        count=1,
        max_tokens=5,
        seed=1,
        device=CPU,
        prompt="amber birch",
        temperature=0.0,
    )
    assert (sample.prompt, sample.temperature) == ("amber birch", 0.0)
    begin = made.tokenizer.special.begin
    ids = torch.tensor([[begin, *made.tokenizer.encode("amber birch").tolist()]])
    with torch.no_grad():
        made.network.eval()
        likeliest = int(made.network({"input_ids": ids})[0, -1].argmax())
    assert sample.text.split()[:1] == [made.tokenizer.decode([likeliest]).strip()]


def test_an_encoder_cannot_write() -> None:
    made = make("classifier")
    with pytest.raises(RecipeError, match="no language model"):
        sample_texts(made.network, made.tokenizer, count=1, max_tokens=2, seed=1, device=CPU)
