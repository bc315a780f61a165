"""llama.cpp gives the same tokens as tokenizer.json, or the export is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from compiler.errors import SourceError
from compiler.gguf_export.characters import DROPPED_NOTE
from compiler.gguf_export.export import export_gguf
from compiler.gguf_export.result import GgufExport
from compiler.gguf_export.sentencepiece import BUILT_NOTE
from tests.compiler.gguf_export.models import (
    END,
    PRE_TOKENIZERS,
    UNKNOWN,
    Llama,
    byte_level,
    characters,
    sentencepiece,
    split,
    write_model,
    write_tokenizer,
)

PROSE_BYTES = 200_000
# What reaches the corners of a pre-tokenizer, and any other character now and then. Those
# that Unicode has only had since 2024 are letters to one library and not to the other.
CORNERS = " \t\n\r\u00a0\u3000'’sStTlLvVeErRmMdD0123½Ⅷ٣.,!?<|>-_aZéя東안👍\u0301\u200d\ufeff\x00"
CHARACTERS = st.sampled_from(CORNERS) | st.characters(
    max_codepoint=0x0FFF, exclude_categories=("Cs", "Cn")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


def export(folder: Path, tokenizer: Tokenizer, **model: Any) -> GgufExport:
    write_model(folder / "model", tokenizer=tokenizer, **model)
    return export_gguf(folder / "model", folder / "m.gguf", report=print)


def opened(folder: Path, name: str, tokenizer: Tokenizer) -> Llama:
    write_model(folder / name, tokenizer=tokenizer)
    path = folder / f"{name}.gguf"
    export_gguf(folder / name, path, report=print)
    return Llama(path, vocabulary_only=True)


@pytest.fixture(scope="module", params=sorted(PRE_TOKENIZERS))
def cut(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, Tokenizer, Llama]]:
    """A BPE for each pre-tokenizer, with llama.cpp's reading of it."""
    tokenizer = byte_level(request.param)
    with opened(folder, request.param.replace(" ", "-"), tokenizer) as llama:
        yield request.param, tokenizer, llama


@settings(max_examples=150, deadline=None)
@given(text=st.text(CHARACTERS, max_size=60))
def test_any_text_is_cut_alike(cut: tuple[str, Tokenizer, Llama], text: str) -> None:
    _, tokenizer, llama = cut
    tokenizer.encode_special_tokens = True
    assert llama.tokenize(text) == tokenizer.encode(text).ids
    tokenizer.encode_special_tokens = False
    assert llama.tokenize(text, parsed=True) == tokenizer.encode(text).ids


def prose(shared: Path) -> dict[str, str]:
    found = {}
    for name in ("shakespeare", "wikitext2"):
        files = sorted(
            p
            for p in (shared / "data" / name).rglob("*")
            if p.suffix in (".txt", ".tokens", ".raw")
        )
        if files:
            found[name] = files[0].read_bytes()[:PROSE_BYTES].decode(errors="ignore")
    if not found:
        pytest.skip("there is no Shakespeare and no WikiText in the shared folder")
    return found


def test_prose_is_cut_alike(cut: tuple[str, Tokenizer, Llama], shared: Path) -> None:
    _, tokenizer, llama = cut
    for text in prose(shared).values():
        assert llama.tokenize(text) == tokenizer.encode(text).ids


def test_a_bpe_trained_on_prose(folder: Path, shared: Path) -> None:
    texts = prose(shared)
    tokenizer = byte_level(corpus=list(texts.values()), size=2000)
    with opened(folder, "prose", tokenizer) as llama:
        for text in texts.values():
            assert llama.tokenize(text) == tokenizer.encode(text).ids


def test_characters_of_prose(folder: Path, shared: Path) -> None:
    texts = prose(shared)
    tokenizer = characters(list(texts.values()))
    tokenizer.encode_special_tokens = True
    with opened(folder, "characters-prose", tokenizer) as llama:
        for text in texts.values():
            assert llama.tokenize(text) == tokenizer.encode(text).ids


def test_characters(tmp_path: Path) -> None:
    tokenizer = characters(["abc é東👍 \n\x00"])
    made = export(tmp_path, tokenizer)
    assert made.notes == (DROPPED_NOTE,)
    with Llama(made.path, vocabulary_only=True) as llama:
        assert llama.tokenize("a é東\x00👍") == tokenizer.encode("a é東\x00👍").ids
        # One byte less of 東, one byte more than a: nothing is left of them.
        assert llama.tokenize("a杰è😀\u0100b") == tokenizer.encode("ab").ids
        spelled = llama.tokenize(f"a{END}b{UNKNOWN}", parsed=True)
    assert spelled == [tokenizer.token_to_id(token) for token in ("a", END, "b", UNKNOWN)]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix: bool, tmp_path: Path) -> None:
    tokenizer = sentencepiece(prefix=prefix)
    made = export(tmp_path, tokenizer, eos_token_id=2)
    assert made.tokenizer == "llama"
    assert made.notes == (BUILT_NOTE,)
    text = " the keeper's  lamp,\n it's 1234 東京 👍\t<0x0A>"
    with Llama(made.path, vocabulary_only=True) as llama:
        assert llama.tokenize(text) == tokenizer.encode(text).ids


def test_added_tokens_are_found_in_a_text(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("[[tool]]", normalized=False), AddedToken("    ")])
    tokenizer.add_special_tokens(["<|user|>"])
    made = export(tmp_path, tokenizer)
    text = f"a [[tool]]     b{END}<|user|>c"
    with Llama(made.path, vocabulary_only=True) as llama:
        assert llama.tokenize(text, parsed=True) == tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        assert llama.tokenize(text) == tokenizer.encode(text).ids


def test_what_is_put_around_a_text(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|begin|>"])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    write_model(tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(SourceError, match="around a text"):
        export_gguf(tmp_path / "model", tmp_path / "m.gguf", report=print)
    write_tokenizer(tmp_path / "model", tokenizer, bos_token="<|begin|>")
    made = export_gguf(tmp_path / "model", tmp_path / "m.gguf", report=print)
    assert stated(made)["tokenizer.ggml.add_bos_token"] is True
    assert stated(made)["tokenizer.ggml.bos_token_id"] == begin


def stated(made: GgufExport) -> dict[str, Any]:
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(made.path).fields.items()}


def test_only_the_sources_own_chat_template_is_inside(tmp_path: Path) -> None:
    tokenizer = byte_level()
    write_model(tmp_path / "model", tokenizer=tokenizer)
    made = export_gguf(tmp_path / "model", tmp_path / "without.gguf", report=print)
    assert "tokenizer.chat_template" not in stated(made)
    write_tokenizer(tmp_path / "model", tokenizer, chat_template="{{ messages }}")
    made = export_gguf(tmp_path / "model", tmp_path / "with.gguf", report=print)
    assert stated(made)["tokenizer.chat_template"] == "{{ messages }}"


def test_a_further_end_is_one_too(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|done|>"])
    done = tokenizer.token_to_id("<|done|>")
    write_model(tmp_path / "model", tokenizer=tokenizer, eos_token_id=[0, done])
    made = export_gguf(tmp_path / "model", tmp_path / "m.gguf", report=print)
    assert stated(made)["tokenizer.ggml.eos_token_id"] == 0
    assert stated(made)["tokenizer.ggml.eot_token_id"] == done


def test_nfc_is_noted(tmp_path: Path) -> None:
    tokenizer = byte_level("qwen2")
    tokenizer.normalizer = normalizers.NFC()
    made = export(tmp_path, tokenizer)
    assert any("NFC" in note for note in made.notes)


def unknown_expression(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = split(r"\w+|\W+")


def space_before(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def lowercase(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def swallowing(tokenizer: Tokenizer) -> None:
    tokenizer.add_tokens([AddedToken("[[tool]]", lstrip=True)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_expression, "no pre-tokenizer with exactly"),
        (space_before, "no pre-tokenizer with exactly"),
        (lowercase, "normalizes text"),
        (swallowing, "lstrip"),
    ],
)
def test_refused(spoil: Callable[[Tokenizer], None], message: str, tmp_path: Path) -> None:
    tokenizer = byte_level()
    spoil(tokenizer)
    with pytest.raises(SourceError, match=message):
        export(tmp_path, tokenizer)
    assert not (tmp_path / "m.gguf").exists()


def test_words_have_no_counterpart(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({END: 0, UNKNOWN: 1, "lamp": 2}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(SourceError, match="kind WordLevel"):
        export(tmp_path, tokenizer)


def test_a_vocabulary_without_all_bytes(tmp_path: Path) -> None:
    vocabulary = {END: 0, "a": 1, "b": 2}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(SourceError, match="lacks 254 bytes"):
        export(tmp_path, tokenizer)


def test_an_ordinary_token_that_llama_cpp_takes_for_an_end(tmp_path: Path) -> None:
    tokenizer = byte_level(corpus=["</s>", "</s>", "a</s>b"] * 3)
    # A merge never crosses a pre-token, and "</" and "s>" would be two.
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"]["</s>"] = len(content["model"]["vocab"])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    with pytest.raises(SourceError, match="because of its spelling"):
        export(tmp_path, tokenizer)


def test_merges_of_another_order(tmp_path: Path) -> None:
    content = json.loads(sentencepiece(prefix=False).to_str())
    random.Random(1).shuffle(content["model"]["merges"])
    with pytest.raises(SourceError, match="order of a SentencePiece model"):
        export(tmp_path, Tokenizer.from_str(json.dumps(content)), eos_token_id=2)


def test_merges_that_are_not_all(tmp_path: Path) -> None:
    content = json.loads(sentencepiece(prefix=False).to_str())
    del content["model"]["merges"][::7]
    with pytest.raises(SourceError, match="not those of a SentencePiece model"):
        export(tmp_path, Tokenizer.from_str(json.dumps(content)), eos_token_id=2)


def test_no_end_of_text(tmp_path: Path) -> None:
    write_model(tmp_path / "model", eos_token_id=None)
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    with pytest.raises(SourceError, match="eos_token"):
        export_gguf(tmp_path / "model", tmp_path / "m.gguf", report=print)
