"""Prompts share the texts evenly, and are refused without being repeated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.errors import UsageError
from tests.trainer.evaluation.checkpoints import make
from trainer.privacy.errors import PrivacyError
from trainer.privacy.synthesis.prompts import (
    Start,
    check_prompts,
    fitting_tokens,
    make_starts,
    read_prompts,
    schedule,
)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    spare=st.integers(0, 40),
    size=st.integers(1, 9),
)
def test_every_prompt_gets_its_share_in_batches_of_one_length(
    lengths: list[int], spare: int, size: int
) -> None:
    starts = [Start(number, tuple(range(length))) for number, length in enumerate(lengths)]
    count = len(starts) + spare
    batches = list(schedule(starts, count, size))
    assert all(len({len(one.ids) for one in batch.starts}) == 1 for batch in batches)
    assert all(1 <= len(batch.starts) <= size for batch in batches)
    shares = Counter(one.number for batch in batches for one in batch.starts)
    assert sum(shares.values()) == count
    assert set(shares) == set(range(len(starts)))
    assert max(shares.values()) - min(shares.values()) <= 1


def test_texts_begin_as_records_do() -> None:
    tokenizer = make("decoder").tokenizer
    (start,) = make_starts((), tokenizer)
    assert (start.number, start.ids) == (None, (tokenizer.special.begin,))
    first, second = make_starts(("amber birch", "cedar"), tokenizer)
    assert first.ids == (tokenizer.special.begin, *tokenizer.encode("amber birch").tolist())
    assert (first.number, second.number) == (0, 1)


def test_room_is_what_records_had_unless_more_is_asked_for() -> None:
    starts = (Start(0, (1, 2, 3)), Start(1, (1,)))
    assert fitting_tokens(starts, 0, usual=10, context=50) == 7
    assert fitting_tokens(starts, 47, usual=10, context=50) == 47
    with pytest.raises(PrivacyError, match="prompt 0 has 3 tokens"):
        fitting_tokens(starts, 48, usual=10, context=50)
    with pytest.raises(PrivacyError, match="prompt 0 has 3 tokens"):
        fitting_tokens(starts, 0, usual=3, context=50)


def test_a_file_of_prompts_is_read_by_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("first one\n\n second \u2028 still\n")
    assert read_prompts(path) == ("first one", " second \u2028 still")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "no prompt"),
        (b"\n \n", "no prompt"),
        (b"secret \xff", "UTF-8"),
        (b"secret\n" * 200_000, "larger"),
    ],
    ids=["empty", "blank", "not-utf8", "too-large"],
)
def test_files_that_hold_no_prompts_are_refused(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=named) as refused:
        read_prompts(path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("prompts", "count"),
    [(["secret"] * 3, 2), (["secret"] * 10_001, 20_000), (["x" * (1 << 20) + "secret"], 1)],
    ids=["more-than-texts", "too-many", "too-long"],
)
def test_too_many_prompts_are_refused(prompts: list[str], count: int) -> None:
    with pytest.raises(UsageError) as refused:
        check_prompts(prompts, count)
    assert "secret" not in str(refused.value)
