"""What texts begin with, and which texts are written together.

Prompts are public: whoever gives one says that it was not taken from the private data. A
prompt that was would be a second look at the data, which no claim covers. They are
written beside the samples, so that an auditor can see what was asked.

It refuses prompts that leave no room for a text, too many of them, and bytes that are no
UTF-8. No message holds a prompt: it is named by its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from security.errors import SecurityError, UsageError
from security.files import read_bounded
from trainer.data.tokenization import Tokenizer
from trainer.privacy.errors import PrivacyError

MAX_PROMPTS: Final = 10_000
MAX_PROMPT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Start:
    """What a text begins with.

    Attributes:
        number: of the prompt, from 0; None where there are no prompts.
        ids: tokens, at least one; special ones included.
    """

    number: int | None
    ids: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that are written together.

    Attributes:
        starts: one for each text, all of the same number of tokens.
    """

    starts: tuple[Start, ...]


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a file of prompts, one a line; blank lines are none.

    Raises:
        UsageError: it cannot be read, is too large, no UTF-8, or holds no prompt.
    """
    try:
        data = read_bounded(path, MAX_PROMPT_BYTES)
        text = data.decode("utf-8")
    except SecurityError as error:
        raise UsageError(str(error)) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 at byte {error.start:,}") from error
    prompts = tuple(line for line in text.split("\n") if line.strip())
    if not prompts:
        raise UsageError(f"{path} holds no prompt; write one a line")
    return prompts


def check_prompts(prompts: Sequence[str], count: int) -> None:
    """Check prompts before a model is loaded.

    Raises:
        UsageError: there are too many, too long ones, or more than texts to write.
    """
    if len(prompts) > MAX_PROMPTS:
        raise UsageError(f"there are {len(prompts):,} prompts; {MAX_PROMPTS:,} is the most")
    if len(prompts) > count:
        raise UsageError(
            f"there are {len(prompts):,} prompts for {count:,} texts; ask for one text of each at "
            "least"
        )
    try:
        size = sum(len(prompt.encode()) for prompt in prompts)
    except UnicodeEncodeError as error:
        raise UsageError("a prompt is no text that UTF-8 can hold") from error
    if size > MAX_PROMPT_BYTES:
        raise UsageError(f"the prompts have {size:,} bytes; {MAX_PROMPT_BYTES:,} is the most")


def make_starts(prompts: Sequence[str], tokenizer: Tokenizer) -> tuple[Start, ...]:
    """Return the prompts as tokens, after the token that begins a record in training.

    Without prompts there is one start, of that token alone.

    Raises:
        PrivacyError: there is no prompt, and the vocabulary has no such token.
    """
    special = tokenizer.special
    first = special.end if special.begin is None else special.begin
    before = () if first is None else (first,)
    if not prompts:
        if not before:
            raise PrivacyError(
                "the vocabulary has no token that begins a text; give a public beginning "
                "with --prompt"
            )
        return (Start(None, before),)
    starts = tuple(
        Start(number, (*before, *tokenizer.encode(prompt).tolist()))
        for number, prompt in enumerate(prompts)
    )
    for start in starts:
        if not start.ids:
            raise PrivacyError(f"prompt {start.number} makes no token")
    return starts


def fitting_tokens(starts: Sequence[Start], wanted: int, *, usual: int, context: int) -> int:
    """Return how many tokens a text may get beside its prompt.

    Args:
        starts: the prompts.
        wanted: as asked for; 0 takes what is usual.
        usual: tokens of a whole record in training.
        context: positions of the network.

    Raises:
        PrivacyError: a prompt leaves no room; it is named by its number.
    """
    longest = max(starts, key=lambda start: len(start.ids))
    room = (context if wanted else usual) - len(longest.ids)
    if room < max(1, wanted):
        whose = "the first token" if longest.number is None else f"prompt {longest.number}"
        asked = f" and {wanted:,} new ones" if wanted else ""
        limit = f"{context:,} positions" if wanted else f"records of at most {usual:,} tokens"
        raise PrivacyError(
            f"{whose} has {len(longest.ids):,} tokens{asked}, and the model has {limit}; shorten "
            "the prompt, or set --max-tokens"
        )
    return wanted or room


def schedule(starts: Sequence[Start], count: int, size: int) -> Iterator[Batch]:
    """Yield batches of at most `size` texts, `count` texts together.

    Every prompt gets the same number of texts, the first ones one more where it does not
    come out even. Prompts of the same length stand side by side.
    """
    each, more = divmod(count, len(starts))
    share = {start: each + (index < more) for index, start in enumerate(starts)}
    waiting: list[Start] = []
    for start in sorted(starts, key=lambda one: len(one.ids)):
        for _ in range(share[start]):
            if waiting and (len(waiting) == size or len(waiting[0].ids) != len(start.ids)):
                yield Batch(tuple(waiting))
                waiting = []
            waiting.append(start)
    if waiting:
        yield Batch(tuple(waiting))
