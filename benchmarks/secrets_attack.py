"""The attacks of `benchmarks.secrets`: complete a secret greedily, and rank it among all codes.

Greedy: the attacker writes "the door code of anna adams is " and takes the likeliest token
each time. Exposure (Carlini et al. 2019) is exact here: the probability of each of the
100,000 codes is computed, by a walk through the tree of their digits that shares the keys
and values of what codes have in common. log2(100,000) = 16.6 bits is the most; a secret
that the model has never seen has 1.44 bits on average.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.secrets_data import DIGITS, Secret
from trainer.data.tokenization import Tokenizer
from trainer.evaluation.opening import open_checkpoint
from trainer.models.decoder import Decoder
from trainer.models.generation import generating
from trainer.privacy.audit.exposure import exposures

# Codes whose keys and values are in memory at one time.
_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """What the attacks find of a secret.

    Attributes:
        copies: records that told it.
        completed: whether greedy completion gives the code.
        exposure: bits.
    """

    copies: int
    completed: bool
    exposure: float


def attack(checkpoint: Path, secrets: tuple[Secret, ...]) -> list[Found]:
    """Attack every secret of a checkpoint.

    Raises:
        ValueError: the checkpoint is no decoder, or its digits are no tokens of their own.
    """
    opened = open_checkpoint(checkpoint, "cpu")
    if not isinstance(opened.network, Decoder):
        raise ValueError(f"{checkpoint} holds no decoder")
    digits = digit_tokens(opened.tokenizer)
    found = []
    with generating(opened.network):
        for secret in secrets:
            prompt = prompt_tokens(opened.tokenizer, secret)
            scores = code_scores(opened.network, prompt, digits)
            code = int(secret.code)
            exposure = exposures(scores[code : code + 1], np.delete(scores, code))
            written = complete(opened.network, prompt)
            wanted = [digits[int(digit)] for digit in secret.code]
            found.append(Found(secret.copies, written == wanted, float(exposure[0])))
    return found


def digit_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of 0 to 9.

    Raises:
        ValueError: a digit is no token of its own.
    """
    ids = [tokenizer.encode(str(digit)).tolist() for digit in range(10)]
    if any(len(one) != 1 for one in ids):
        raise ValueError("a digit is no token of its own")
    return [one[0] for one in ids]


def prompt_tokens(tokenizer: Tokenizer, secret: Secret) -> list[int]:
    """Return the tokens before the code, the one that begins a record included.

    Raises:
        ValueError: the record is not tokenized as prompt and digits.
    """
    special = tokenizer.special
    first = special.end if special.begin is None else special.begin
    prompt = tokenizer.encode(secret.prompt).tolist()
    whole = tokenizer.encode(secret.text).tolist()
    if whole[: len(prompt)] != prompt or len(whole) != len(prompt) + DIGITS:
        raise ValueError("a record is not its prompt and five digits")
    return prompt if first is None else [first, *prompt]


def complete(network: Decoder, prompt: list[int]) -> list[int]:
    """Return the likeliest next tokens, one after another: as many as a code has."""
    written = network.generate(torch.tensor([prompt]), DIGITS, temperature=0)
    tokens: list[int] = written[0].tolist()
    return tokens


def code_scores(network: Decoder, prompt: list[int], digits: list[int]) -> NDArray[np.float64]:
    """Return the log-probability of every code after a prompt, f64[100000], by number."""
    chances, cache = _feed(network, torch.tensor([prompt]), None, digits)
    parts = _codes(network, chances, cache, digits, DIGITS - 1)
    scores: NDArray[np.float64] = torch.cat(parts).numpy()
    return scores


def _codes(
    network: Decoder, chances: Tensor, cache: Any, digits: list[int], remaining: int
) -> list[Tensor]:
    """Return the scores of all codes below some prefixes, in order.

    Args:
        network: the decoder.
        chances: f64[N, 10], log-probability of each prefix with its next digit.
        cache: keys and values of the N prefixes.
        digits: tokens of the digits.
        remaining: digits that are missing after the next one.
    """
    if remaining == 0:
        return [chances.flatten()]
    if 10 * chances.shape[0] > _ROWS:
        halves = torch.arange(chances.shape[0]).chunk(10)
        return [
            part
            for rows in halves
            for part in _codes(network, chances[rows], _select(cache, rows), digits, remaining)
        ]
    below = _select(cache, torch.arange(chances.shape[0]).repeat_interleave(10))
    feed = torch.tensor(digits).repeat(chances.shape[0])[:, None]
    following, below = _feed(network, feed, below, digits)
    return _codes(network, chances.flatten()[:, None] + following, below, digits, remaining - 1)


def _select(cache: Any, rows: Tensor) -> Any:
    """Return the keys and values of some rows, which may repeat; the cache stays as it is."""
    chosen = copy.copy(cache)
    # Choosing rows puts new tensors into a layer and leaves the old ones alone.
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen


def _feed(network: Decoder, ids: Tensor, cache: Any, digits: list[int]) -> tuple[Tensor, Any]:
    """Return the log-probabilities of the digits after some tokens, f64[N, 10], and the cache."""
    states = network.base(input_ids=ids, past_key_values=cache, use_cache=True, return_dict=True)
    logits = network.logits(network.added(states.last_hidden_state[:, -1]))
    return logits.double().log_softmax(dim=-1)[:, digits], states.past_key_values
