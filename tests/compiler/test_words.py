"""Whatever words a command was called with, its record can be written and read back."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from compiler.words import printable
from security.strictjson import canonical, parse

ANY = st.text(st.characters(codec=None, exclude_categories=()))


@given(ANY)
def test_any_word_becomes_one_that_a_record_takes(word: str) -> None:
    found = printable(word)
    assert found
    assert unicodedata.is_normalized("NFC", found)
    assert parse(canonical({"word": found}), max_bytes=1 << 20, max_depth=2) == {"word": found}


def test_a_path_that_is_no_text_is_still_told_apart() -> None:
    assert printable("model-\udcff.gguf") == "model-\\udcff.gguf"
