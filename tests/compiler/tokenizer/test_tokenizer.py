"""A tokenizer.json is cut with as the library does, and a hostile one harms its process alone."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from compiler.errors import SourceError
from compiler.tokenizer.file import TokenizerFile, open_tokenizer
from tests.compiler.gguf_export.models import byte_level
from tests.support.tiny_models import tiny_encoder_dir

MIB = 1 << 20


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder_dir(tmp_path_factory.mktemp("model")) / "tokenizer.json"


@pytest.fixture(scope="module")
def opened(file: Path) -> TokenizerFile:
    return open_tokenizer(file)


def changed(file: Path, out: Path, **parts: Any) -> Path:
    """The same tokenizer with some of its parts replaced."""
    out.write_text(json.dumps({**json.loads(file.read_text()), **parts}))
    return out


def doublings(count: int, letter: str = "a") -> dict[str, Any]:
    """A normalizer that makes 2^count letters of one."""
    step = {"type": "Replace", "pattern": {"String": letter}, "content": letter * 2}
    return {"type": "Sequence", "normalizers": [step] * count}


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(st.text(max_size=60), max_size=8), most=st.integers(3, 12))
def test_texts_are_cut_as_the_library_cuts_them(
    opened: TokenizerFile, texts: list[str], most: int
) -> None:
    raw = Tokenizer.from_file(str(opened.path))
    whole = [raw.encode(text, add_special_tokens=False).ids for text in texts]
    assert opened.cut(texts, literal=False) == whole
    raw.enable_truncation(most)
    framed = [(tuple(raw.encode(t).ids), tuple(raw.encode(t).type_ids)) for t in texts]
    assert [(tokens.ids, tokens.types) for tokens in opened.frame_texts(texts, most)] == framed


def test_a_special_tokens_spelling_is_letters_where_that_is_asked(opened: TokenizerFile) -> None:
    number = opened.numbers(["[SEP]", "no such token"])
    assert list(number) == ["[SEP]"]
    assert opened.cut(["[SEP]"], literal=False) == [[number["[SEP]"]]]
    assert number["[SEP]"] not in opened.cut(["[SEP]"], literal=True)[0]


def test_texts_are_strung_together_of_tokens(opened: TokenizerFile) -> None:
    raw = Tokenizer.from_file(str(opened.path))
    texts = opened.spell([5, 6, 7, 8, 10**6], 2)
    assert texts[:2] == [raw.decode([5, 6]), raw.decode([7, 8])]


def test_a_vocabulary_that_the_model_does_not_have(file: Path, opened: TokenizerFile) -> None:
    assert open_tokenizer(file, opened.highest + 1).highest == opened.highest
    with pytest.raises(SourceError, match="beyond the model's vocabulary"):
        open_tokenizer(file, opened.highest)


def test_the_number_that_it_fills_up_with(
    file: Path, tmp_path: Path, opened: TokenizerFile
) -> None:
    raw = Tokenizer.from_file(str(file))
    raw.enable_padding(pad_id=3, pad_token="[PAD]")
    raw.save(str(tmp_path / "padded.json"))
    assert (opened.padding, open_tokenizer(tmp_path / "padded.json").padding) == (0, 3)


def test_a_letter_that_grows_for_ever_ends_its_own_process(file: Path, tmp_path: Path) -> None:
    hostile = changed(file, tmp_path / "hostile.json", normalizer=doublings(40))
    with pytest.raises(SourceError, match=r"hostile\.json: is not a tokenizer that can be used"):
        open_tokenizer(hostile)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert children < 4096 * MIB


def test_more_tokens_than_a_text_can_have_are_refused(file: Path, tmp_path: Path) -> None:
    # A point is a word, and so a token, by itself.
    growing = changed(file, tmp_path / "growing.json", normalizer=doublings(12, "."))
    with pytest.raises(SourceError, match=r"makes \d{4} tokens of a text of \d\d characters"):
        open_tokenizer(growing)


def test_a_panic_is_one_line_and_quotes_no_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # It has no token for what it does not know.
    byte_level().save(str(tmp_path / "panics.json"))
    data = json.loads((tmp_path / "panics.json").read_text())
    data["model"] = {
        "type": "WordPiece",
        "vocab": {"a": 0},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    (tmp_path / "panics.json").write_text(json.dumps(data))
    with pytest.raises(SourceError) as caught:
        open_tokenizer(tmp_path / "panics.json")
    assert "\n" not in str(caught.value)
    assert "fails on a text with characters that it does not know" in str(caught.value)
    assert "backtrace" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a tokenizer that can be read"),
        (b"\xff\xfe", "is not a tokenizer that can be read"),
        (b"{}", "is not a tokenizer that can be read"),
        (b'{"model": 1}', "is not a tokenizer that can be read"),
    ],
    ids=["nothing", "no text", "an empty table", "a model that is a number"],
)
def test_a_file_that_is_no_tokenizer(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_tokenizer(tmp_path / "tokenizer.json")
