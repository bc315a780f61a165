"""Canaries and their file: random, secret, whole, thrown once."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from security.strictjson import canonical
from tests.trainer.data.tiny import tokenizer as tiny_tokenizer
from tests.trainer.privacy.audit.small import word_tokenizer
from trainer.data.tokenization import Tokenizer
from trainer.privacy.audit.canaries import (
    CANARIES_FORMAT,
    CanarySet,
    alphabet,
    draw_records,
    load_canaries,
    make_canaries,
    throw_coins,
)
from trainer.privacy.errors import PrivacyError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return word_tokenizer()


def canaries(tokenizer: Tokenizer, count: int = 30, labels: int = 2) -> CanarySet:
    return make_canaries(
        count, objective="classification", tokenizer=tokenizer, length=8, labels=labels, units=100
    )


def test_coins_are_fair() -> None:
    heads = int(throw_coins(20_000).sum())
    # Six standard deviations: a fair coin fails this once in 500 million times.
    assert abs(heads - 10_000) < 6 * 71
    assert throw_coins(13).shape == (13,)


def test_coins_and_records_are_new_every_time(tokenizer: Tokenizer) -> None:
    first, second = canaries(tokenizer, 100), canaries(tokenizer, 100)
    assert (first.included != second.included).any()
    assert (first.records.ids != second.records.ids).any()
    assert first.salt != second.salt


def test_records_share_no_token_while_there_are_enough(tokenizer: Tokenizer) -> None:
    ids = canaries(tokenizer, 100).records.ids
    assert np.unique(ids).size == ids.size


def test_a_small_vocabulary_is_dealt_again() -> None:
    found = draw_records(50, 8, np.arange(20), 3, b"0123456789abcdef")
    assert np.unique(found.ids, return_counts=True)[1].tolist() == [20] * 20
    assert found.classes is not None
    assert set(found.classes.tolist()) == {0, 1, 2}
    assert draw_records(50, 8, np.arange(20), 0, b"0123456789abcdef").classes is None


@pytest.mark.parametrize(
    ("kind", "family"), [("wordpiece", "encoder"), ("bpe", "decoder"), ("character", "seq2seq")]
)
def test_special_tokens_are_in_no_canary(kind: str, family: str) -> None:
    tokenizer = tiny_tokenizer(kind, family)
    chosen = set(alphabet(tokenizer).tolist())
    assert chosen
    assert not chosen & tokenizer.special.all()
    assert max(chosen) < tokenizer.vocabulary_size


def test_the_file_is_secret_and_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = canaries(tokenizer)
    path = tmp_path / "canaries.json"
    made.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_canaries(path)
    assert found.encode() == made.encode()
    assert (found.included == made.included).all()
    assert len(found.planted) == int(made.included.sum())


def test_coins_are_thrown_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "canaries.json"
    canaries(tokenizer).save(path)
    before = path.read_bytes()
    with pytest.raises(PrivacyError, match="thrown once"):
        canaries(tokenizer).save(path)
    assert path.read_bytes() == before


def test_a_repr_tells_no_coin_and_no_record(tokenizer: Tokenizer) -> None:
    made = canaries(tokenizer)
    assert "included" not in repr(made)
    assert "ids" not in repr(made.records)


def test_candidates_are_fresh_and_the_same_every_time(tokenizer: Tokenizer) -> None:
    made = canaries(tokenizer)
    first, second = made.candidates(40, tokenizer), made.candidates(40, tokenizer)
    assert (first.ids == second.ids).all()
    assert first.ids.shape == (40, 8)
    planted = {tuple(row) for row in made.records.ids.tolist()}
    assert not planted & {tuple(row) for row in first.ids.tolist()}


def test_another_tokenizer_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(PrivacyError, match="another tokenizer"):
        canaries(tokenizer).candidates(5, tiny_tokenizer())


@pytest.mark.parametrize(("count", "length"), [(1, 8), (0, 8), (5, 0)])
def test_too_few_are_refused(tokenizer: Tokenizer, count: int, length: int) -> None:
    with pytest.raises(PrivacyError, match="prove nothing"):
        make_canaries(
            count, objective="masked", tokenizer=tokenizer, length=length, labels=0, units=10
        )


def a_coin_is_two(document: dict[str, Any]) -> None:
    document["included"][0] = 2


def a_coin_is_missing(document: dict[str, Any]) -> None:
    document["included"].pop()


def records_are_ragged(document: dict[str, Any]) -> None:
    document["records"][0].pop()


def a_token_is_negative(document: dict[str, Any]) -> None:
    document["records"][0][0] = -1


def a_token_is_text(document: dict[str, Any]) -> None:
    document["records"][0][0] = "secret"


def a_label_is_none(document: dict[str, Any]) -> None:
    document["classes"][0] = 2


def a_key_is_foreign(document: dict[str, Any]) -> None:
    document["note"] = 1


def the_format_is_newer(document: dict[str, Any]) -> None:
    document["format"] = "casemate.canaries/2"


def the_salt_is_short(document: dict[str, Any]) -> None:
    document["salt"] = "00"


def there_is_one_record(document: dict[str, Any]) -> None:
    for name in ("records", "classes", "included"):
        document[name] = document[name][:1]


@pytest.mark.parametrize(
    "damage",
    [
        a_coin_is_two,
        a_coin_is_missing,
        records_are_ragged,
        a_token_is_negative,
        a_token_is_text,
        a_label_is_none,
        a_key_is_foreign,
        the_format_is_newer,
        the_salt_is_short,
        there_is_one_record,
    ],
)
def test_a_file_that_breaks_a_rule_is_refused(
    tokenizer: Tokenizer, tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    document = json.loads(canaries(tokenizer).encode())
    damage(document)
    path = tmp_path / "canaries.json"
    path.write_bytes(canonical(document))
    with pytest.raises(PrivacyError, match=r"canaries\.json holds no canaries") as refused:
        load_canaries(path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[1]", b"\xff"], ids=["missing", "empty", "{}", "[]", "binary"]
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "canaries.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PrivacyError, match=r"canaries\.json"):
        load_canaries(path)


def test_another_encoding_of_the_same_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The digest that was committed is of one encoding."""
    path = tmp_path / "canaries.json"
    path.write_bytes(json.dumps(json.loads(canaries(tokenizer).encode()), indent=1).encode())
    with pytest.raises(PrivacyError, match="canonical"):
        load_canaries(path)


def test_the_document_of_the_format_names_every_key(tokenizer: Tokenizer) -> None:
    path = Path(__file__).resolve().parents[4] / "docs/formats/canaries.md"
    written = re.findall(r"^\| `(\w+)` \|", path.read_text(), flags=re.MULTILINE)
    assert sorted(written) == sorted(json.loads(canaries(tokenizer).encode()))
    assert f"`{CANARIES_FORMAT}`" in path.read_text()
