"""Shard sets: what is written is read, and what was damaged is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.texts import write_set
from trainer.data.shard_writer import ShardWriter
from trainer.data.shards import ShardSet, manifest_digest
from trainer.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12], [13]]


# Every shard is put on the disk, which some machines take their time for.
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 70_000), max_size=6), min_size=1, max_size=6),
    st.integers(1, 9),
    st.sampled_from([70_001, 1 << 20]),
    st.data(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    shard_tokens: int,
    vocabulary_size: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("shards") / "set"
    shards = write_set(
        folder, documents, vocabulary_size=vocabulary_size, shard_tokens=shard_tokens
    )
    stream = [token for document in documents for token in document]
    lengths = [len(document) for document in documents]
    begins = [sum(lengths[:number]) for number in range(len(lengths)) if lengths[number]]

    assert (shards.tokens, shards.documents) == (len(stream), len(begins))
    begin = data.draw(st.integers(0, len(stream)))
    end = data.draw(st.integers(begin, len(stream)))
    assert shards.read(begin, end).tolist() == stream[begin:end]
    assert shards.begins(begin, end).tolist() == [at for at in begins if begin <= at < end]
    sizes = [path.stat().st_size // 4 for path in sorted(folder.glob("*.tokens"))]
    assert sum(sizes) == len(stream)
    assert all(size == shard_tokens for size in sizes[:-1])


@pytest.mark.parametrize(("size", "width"), [(65_536, 2), (65_537, 4)])
def test_tokens_take_two_bytes_where_they_fit(tmp_path: Path, size: int, width: int) -> None:
    shards = write_set(tmp_path / "set", [[0, size - 1]], vocabulary_size=size)

    assert (tmp_path / "set" / "shard-00000.tokens").stat().st_size == 2 * width
    assert shards.read(0, 2).tolist() == [0, size - 1]


def test_changing_what_was_read_changes_no_file(tmp_path: Path) -> None:
    shards = write_set(tmp_path / "set", DOCUMENTS)
    tokens = shards.read(0, 3)
    tokens[:] = 99

    assert shards.read(0, 3).tolist() == DOCUMENTS[0]
    assert ShardSet.open(tmp_path / "set").digest == shards.digest


@pytest.mark.parametrize(("begin", "end"), [(-1, 2), (0, 14), (3, 2)])
def test_a_range_outside_the_stream(tmp_path: Path, begin: int, end: int) -> None:
    with pytest.raises(ValueError, match="not inside 0 to 13"):
        write_set(tmp_path / "set", DOCUMENTS).read(begin, end)


@pytest.mark.parametrize("token", [100, -1])
def test_a_token_beyond_the_vocabulary_is_not_written(tmp_path: Path, token: int) -> None:
    with pytest.raises(ValueError, match="not below 100"):
        write_set(tmp_path / "set", [[1, token]])


def test_the_digest_stands_for_the_tokens(tmp_path: Path) -> None:
    one = write_set(tmp_path / "one", DOCUMENTS)
    same = write_set(tmp_path / "same", DOCUMENTS)
    other = write_set(tmp_path / "other", [[1, 2, 3, 4], *DOCUMENTS[1:]])
    joined = write_set(tmp_path / "joined", [[*DOCUMENTS[0], *DOCUMENTS[1]], DOCUMENTS[2]])

    assert one.digest == same.digest
    assert len({one.digest, other.digest, joined.digest}) == 3


def flip(path: Path, at: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def corrupt_shard(folder: Path) -> None:
    flip(folder / "shard-00001.tokens")


def corrupt_documents(folder: Path) -> None:
    flip(folder / "shard-00000.documents")


def truncated_shard(folder: Path) -> None:
    path = folder / "shard-00001.tokens"
    path.write_bytes(path.read_bytes()[:-2])


def longer_shard(folder: Path) -> None:
    with (folder / "shard-00000.tokens").open("ab") as file:
        file.write(b"\0\0")


def missing_shard(folder: Path) -> None:
    (folder / "shard-00000.tokens").unlink()


def swapped_shards(folder: Path) -> None:
    first, second = folder / "shard-00000.documents", folder / "shard-00001.documents"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (corrupt_shard, r"shard-00001\.tokens is corrupt"),
        (corrupt_documents, r"shard-00000\.documents is corrupt"),
        (truncated_shard, r"shard-00001\.tokens has 8 bytes where 10 are expected"),
        (longer_shard, r"shard-00000\.tokens has 18 bytes where 16"),
        (missing_shard, r"shard-00000\.tokens cannot be read: No such file"),
        (swapped_shards, r"shard-00000\.documents has 8 bytes where 16"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_shards(tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    folder = tmp_path / "set"
    write_set(folder, DOCUMENTS)
    damage(folder)

    with pytest.raises(DataError, match=expected) as caught:
        ShardSet.open(folder)
    assert f"delete the folder {folder} and run again" in str(caught.value)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, seal: bool) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if seal:
        manifest["digest"] = manifest_digest(manifest)
    path.write_text(json.dumps(manifest))


def test_manifest_edited(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_set(folder, DOCUMENTS)
    edit(folder, lambda manifest: manifest.update(utf8_bytes=1), seal=False)

    with pytest.raises(DataError, match=r"manifest\.json was edited"):
        ShardSet.open(folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.update(format="casemate.shards/2"), "not of the format casemate.shards/1"),
        (lambda m: m.update(extra=1), "exactly the fields"),
        (lambda m: m.pop("tokens"), "exactly the fields"),
        (lambda m: m.update(tokens="13"), "tokens is no int"),
        (lambda m: m.update(tokens=True), "tokens is no int"),
        (lambda m: m.update(token_bytes=3), "sizes that no shard"),
        (lambda m: m.update(shard_tokens=0), "sizes that no shard"),
        (lambda m: m.update(shard_tokens=9), "shard 0 has the wrong number"),
        (lambda m: m["shards"].pop(), "the shards hold 8 tokens"),
        (lambda m: m["shards"].append("shard"), "shard 2 has the wrong number"),
        (lambda m: m["shards"][0].pop("documents"), "shard 0 does not have exactly"),
        (lambda m: m["shards"][0].update(name="../secret"), "shard 0 has another name"),
        (lambda m: m["shards"][0].update(documents=-1), "16 bytes where -8"),
    ],
)
def test_manifest_that_no_writer_makes(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    folder = tmp_path / "set"
    write_set(folder, DOCUMENTS)
    edit(folder, change, seal=True)

    with pytest.raises(DataError, match=expected):
        ShardSet.open(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_manifest_that_is_no_object(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "set"
    write_set(folder, DOCUMENTS)
    (folder / "manifest.json").write_text(content)

    with pytest.raises(DataError, match=r"manifest\.json"):
        ShardSet.open(folder)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this is no shard set"):
        ShardSet.open(tmp_path)


def test_a_writer_that_was_stopped_leaves_no_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with ShardWriter(
        folder, vocabulary_size=9, tokenizer_digest="00" * 32, shard_tokens=2
    ) as writer:
        writer.begin_document()
        writer.append(np.arange(5), 5)

    with pytest.raises(DataError, match="this is no shard set"):
        ShardSet.open(folder)


def test_a_set_is_never_written_over(tmp_path: Path) -> None:
    write_set(tmp_path / "set", DOCUMENTS)

    with pytest.raises(FileExistsError):
        write_set(tmp_path / "set", DOCUMENTS)


def test_the_example_of_the_format_is_what_is_written(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "formats" / "shards.md").read_text(encoding="utf-8")
    example = page.split("```json\n")[1].split("```")[0]
    source = {"name": "letters.jsonl", "sha256": "2" * 64, "bytes": 28, "role": "train"}
    with ShardWriter(
        tmp_path / "set", vocabulary_size=4, tokenizer_digest="1" * 64, shard_tokens=4
    ) as writer:
        for document, size in (([1, 2], 2), ([3], 1)):
            writer.begin_document()
            writer.append(np.array(document), size)
            writer.append(np.array([0]), 0)
        writer.finish([source])

    assert (tmp_path / "set" / "manifest.json").read_text(encoding="utf-8") == example
