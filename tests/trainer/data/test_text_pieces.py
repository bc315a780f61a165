"""Text files in pieces: nothing lost, nothing beyond bounds, defects by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.texts import prose
from trainer.data import text_pieces
from trainer.data.text_pieces import PIECE_BYTES, cut_position, read_pieces
from trainer.errors import DataError

# Four-byte, three-byte and two-byte characters, white space, and none of it.
TEXTS = st.text(alphabet="aé 字𝄞\n\r\t.", min_size=1, max_size=300)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_pieces, "PIECE_BYTES", 16)


@settings(deadline=None)
@given(TEXTS, st.integers(8, 40))
def test_the_pieces_joined_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "corpus.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_pieces, "PIECE_BYTES", size)
        pieces = list(read_pieces(path))

    assert "".join(piece for _, piece in pieces) == text
    line = 1
    for number, piece in pieces:
        assert number == line
        assert len(piece.encode()) < 2 * size + 4
        line += piece.count("\n")


@settings(deadline=None)
@given(TEXTS, st.floats(0, 1))
def test_two_parts_joined_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, share: float
) -> None:
    path = tmp_path_factory.mktemp("parts") / "corpus.txt"
    path.write_bytes(text.encode())
    size = path.stat().st_size
    cut = cut_position(path, int(size * share))

    parts = [*read_pieces(path, 0, cut), *read_pieces(path, cut, size)]
    assert "".join(piece for _, piece in parts) == text
    for line, piece in parts[-1:]:
        assert line == 1 + text[: len(text) - len(piece)].count("\n")


def test_pieces_end_at_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(prose(60_000), encoding="utf-8")
    pieces = [piece for _, piece in read_pieces(path)]

    assert len(pieces) > 3
    assert all(piece.endswith(".\n") for piece in pieces)
    assert all(PIECE_BYTES / 2 <= len(piece) <= 2 * PIECE_BYTES for piece in pieces[:-1])


def test_a_file_without_line_ends_is_cut_before_spaces(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(prose(30_000).replace("\n", " "), encoding="utf-8")
    pieces = [piece for _, piece in read_pieces(path)]

    assert len(pieces) > 2
    assert all(piece.startswith(" ") for piece in pieces[1:])


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"\xef\xbb\xbfWord\n")

    assert list(read_pieces(path)) == [(1, "Word\n")]


def test_a_file_of_a_byte_order_mark_alone(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"\xef\xbb\xbf")

    assert "".join(piece for _, piece in read_pieces(path)) == ""


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()

    with pytest.raises(DataError, match=r"empty\.txt: the file is empty"):
        list(read_pieces(path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.txt: cannot be read"):
        list(read_pieces(tmp_path / "gone.txt"))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("lines", [0, 1, 17])
def test_binary_file(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "picture.txt"
    path.write_bytes(b"Secret words\n" * lines + b"\x89PNG\0\0")

    with pytest.raises(DataError, match=rf"picture.txt:{lines + 1}: a NUL byte") as caught:
        list(read_pieces(path))
    assert "Secret" not in str(caught.value)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("lines", [0, 1, 17])
def test_bad_utf8(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"Secret words\n" * lines + "Cafe\nCafé\n".encode("latin-1"))

    expected = rf"latin1.txt:{lines + 2}: byte 4 of the line is not UTF-8"
    with pytest.raises(DataError, match=expected) as caught:
        list(read_pieces(path))
    assert "Secret" not in str(caught.value)
    # The decoder's own error holds the bytes of the text; it must not be shown as cause.
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("small_pieces")
def test_continuation_bytes_without_end(tmp_path: Path) -> None:
    path = tmp_path / "broken.txt"
    path.write_bytes(b"\x80" * 200)

    with pytest.raises(DataError, match=r"broken\.txt:1: byte 1 of the line is not UTF-8"):
        list(read_pieces(path))
