"""The GGUF pre-parser: what passes, what is refused and under which word."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from security.errors import UnsafeModelError
from security.preparse import GgufSummary, check_gguf
from security.preparse.limits import GgufLimits
from tests.preparse.bad_gguf import CASES
from tests.preparse.forge_gguf import (
    ARRAY,
    F32,
    STRING,
    U32,
    WIDTH,
    Forge,
    Tensor,
    array,
    as_descriptor,
    tokens,
    valid,
)
from tests.support.tiny_models import GGUF_CONTEXT, gguf_vocabulary, tiny_gguf


def check(data: bytes, limits: GgufLimits | None = None) -> GgufSummary:
    fd = as_descriptor(data)
    try:
        return check_gguf(fd, len(data), limits or GgufLimits())
    finally:
        os.close(fd)


def test_a_file_written_by_the_gguf_package_passes(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf")
    with path.open("rb") as file:
        summary = check_gguf(file.fileno(), path.stat().st_size)
        assert file.tell() == 0
    assert summary.architecture == "llama"
    assert summary.context_tokens == GGUF_CONTEXT
    assert summary.vocabulary_size == len(gguf_vocabulary()[0])
    assert (summary.bos, summary.eos, summary.add_bos) == ("<s>", "</s>", True)
    assert summary.tensor_types == {"F32": 21}
    assert summary.cache_bytes_per_token == 2 * 64 * 2 * 2


def test_the_forge_makes_a_valid_file() -> None:
    summary = check(valid().encode())
    assert summary.parameter_count == WIDTH * (259 + 7 * WIDTH + 3)
    assert summary.add_bos is None


@pytest.mark.parametrize("name", CASES)
def test_bad_file_is_refused(name: str) -> None:
    build, reason = CASES[name]
    with pytest.raises(UnsafeModelError) as caught:
        check(build())
    assert caught.value.reason == reason, str(caught.value)


def test_version_two_passes() -> None:
    forge = valid()
    forge.version = 2
    assert check(forge.encode()).version == 2


def test_byte_level_vocabulary_needs_no_byte_tokens() -> None:
    forge = valid()
    forge.set("tokenizer.ggml.model", STRING, "gpt2")
    items = [b"t%d" % number for number in range(len(tokens()))]
    forge.set("tokenizer.ggml.tokens", ARRAY, array(STRING, items))
    forge.set("tokenizer.ggml.token_type", ARRAY, array(5, [1] * len(items)))
    forge.set("tokenizer.ggml.merges", ARRAY, array(STRING, [b"t 1", b"t1 2"]))
    del forge.pairs[b"tokenizer.ggml.scores"]
    assert check(forge.encode()).tokenizer_model == "gpt2"


def test_template_in_the_file_is_reported_only() -> None:
    forge = valid()
    forge.set("tokenizer.chat_template", STRING, "{{ messages }}")
    assert check(forge.encode()).chat_template == "{{ messages }}"


def test_alignment_of_the_file_is_followed() -> None:
    forge = valid()
    forge.set("general.alignment", U32, 64)
    forge.alignment = 64
    assert check(forge.encode()).tensor_count == len(forge.tensors)


def test_key_length_may_differ_from_the_width() -> None:
    forge = valid()
    forge.set("general.architecture", STRING, "gemma3")
    for key in [k for k in forge.pairs if k.startswith(b"llama.")]:
        forge.pairs[key.replace(b"llama.", b"gemma3.")] = forge.pairs.pop(key)
    forge.set("gemma3.attention.key_length", U32, 32)
    forge.set("gemma3.attention.value_length", U32, 32)
    forge.set("gemma3.attention.head_count_kv", U32, 1)
    forge.set("gemma3.final_logit_softcapping", F32, 30.0)
    for name, shape in {
        "attn_q": (WIDTH, 64),
        "attn_k": (WIDTH, 32),
        "attn_v": (WIDTH, 32),
        "attn_output": (64, WIDTH),
    }.items():
        forge.tensor(f"blk.0.{name}.weight").dimensions = shape
    forge.tensors.append(Tensor(b"blk.0.attn_q_norm.weight", (32,)))
    assert check(forge.encode()).key_length == 32


@pytest.mark.parametrize("size", [0, 1, 3, 4, 23, 24])
def test_file_that_ends_early_is_refused(size: int) -> None:
    with pytest.raises(UnsafeModelError):
        check(valid().encode()[:size])


def test_every_truncation_of_the_header_is_refused() -> None:
    data = valid().encode()
    header = check(data).header_bytes
    for size in range(1, header, 37):
        with pytest.raises(UnsafeModelError):
            check(data[:size])


def test_size_that_is_not_the_files_is_refused() -> None:
    data = valid().encode()
    fd = as_descriptor(data)
    try:
        with pytest.raises(UnsafeModelError, match="expected") as caught:
            check_gguf(fd, len(data) + 1)
    finally:
        os.close(fd)
    assert caught.value.reason == "wrong-size"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("max_file_bytes", 100, "file-too-large"),
        ("max_header_bytes", 200, "truncated"),
        ("max_pairs", 3, "pair-count"),
        ("max_key_bytes", 4, "string-too-long"),
        ("max_array_elements", 100, "array-too-long"),
        ("max_total_elements", 600, "array-too-long"),
        ("max_array_bytes", 100, "array-too-long"),
        ("max_tensors", 2, "tensor-count"),
        ("max_blocks", 1, None),
    ],
)
def test_limits_are_enforced(field: str, value: int, reason: str | None) -> None:
    data = valid().encode()
    limits = GgufLimits(**{field: value})
    if reason is None:
        assert check(data, limits).block_count == 1
        return
    with pytest.raises(UnsafeModelError) as caught:
        check(data, limits)
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_a_limit_must_be_a_positive_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="max_pairs"):
        GgufLimits(max_pairs=value)  # type: ignore[arg-type]


def test_names_of_the_file_are_printable_in_messages() -> None:
    forge = valid()
    forge.tensors.append(Tensor("\x1b[31mred\u202e".encode(), (WIDTH,)))
    with pytest.raises(UnsafeModelError) as caught:
        check(forge.encode())
    assert str(caught.value).isascii()
    assert "\x1b" not in str(caught.value)


def test_a_large_vocabulary_is_read_quickly() -> None:
    forge: Forge = valid()
    items = tokens() + [b"piece%d" % number for number in range(100_000)]
    forge.set("tokenizer.ggml.tokens", ARRAY, array(STRING, items))
    started = time.process_time()
    with pytest.raises(UnsafeModelError) as caught:
        check(forge.encode())
    assert caught.value.reason == "unequal-lengths"
    assert time.process_time() - started < 1.0


@pytest.mark.model
def test_gemma_passes(gemma_gguf: Path) -> None:
    with gemma_gguf.open("rb") as file:
        summary = check_gguf(file.fileno(), gemma_gguf.stat().st_size)
    assert (summary.architecture, summary.vocabulary_size) == ("gemma3", 262_144)
    assert summary.key_length == 256
