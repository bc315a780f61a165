"""Texts that a language model writes, for people to look at."""

from __future__ import annotations

import torch

from trainer.data.tokenization import Tokenizer
from trainer.evaluation.result import Sample
from trainer.models.network import Network

TEMPERATURE = 0.8
# What a text begins with where the vocabulary has no token for that.
_FALLBACK_PROMPT = "\n"


def sample_texts(
    network: Network,
    tokenizer: Tokenizer,
    *,
    count: int,
    max_tokens: int,
    seed: int,
    device: torch.device,
    prompt: str = "",
    temperature: float = TEMPERATURE,
) -> list[Sample]:
    """Let a decoder or a recurrent model write.

    The same seed gives the same texts on a CPU; the global random state is not used.

    Args:
        network: on `device`, not wrapped.
        tokenizer: its tokenizer.
        count: texts to write.
        max_tokens: tokens of each, at most; the end token ends one early.
        seed: of the draws.
        device: where to compute.
        prompt: what to go on from; empty begins at the begin token (or a new line).
        temperature: divides the logits; 0 takes the likeliest token each time.

    Raises:
        RecipeError: the network is no language model.
    """
    special = tokenizer.special
    ids = tokenizer.encode(prompt).tolist()
    if special.begin is not None:
        ids = [special.begin, *ids]
    if not ids:
        prompt = _FALLBACK_PROMPT
        ids = tokenizer.encode(prompt).tolist() or [0]
    context = torch.tensor([ids], dtype=torch.int64, device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    samples = []
    for _ in range(count):
        written = network.generate(
            context, max_tokens, temperature, generator=generator, stop=special.end
        )
        text = tokenizer.decode(written[0].cpu().numpy(), skip_special=True)
        samples.append(Sample(prompt, text, temperature))
    return samples
