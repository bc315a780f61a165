"""Bad GGUF files, each named after its one defect: {name: (file, reason expected)}."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from tests.preparse.forge_gguf import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U32,
    U64,
    WIDTH,
    Forge,
    Tensor,
    array,
    string,
    tokens,
    types,
    valid,
)

HUGE = 2**64 - 1
CASES: dict[str, tuple[Callable[[], bytes], str]] = {}


def bad(reason: str) -> Callable[[Callable[[Forge], None]], Callable[[Forge], None]]:
    """Register a function that puts one defect into a valid file."""

    def register(spoil: Callable[[Forge], None]) -> Callable[[Forge], None]:
        def build() -> bytes:
            forge = valid()
            spoil(forge)
            return forge.encode()

        CASES[spoil.__name__] = (build, reason)
        return spoil

    return register


def _set(name: str, reason: str, key: str, kind: int, value: object) -> None:
    def spoil(forge: Forge) -> None:
        forge.set(key, kind, value)

    spoil.__name__ = name
    bad(reason)(spoil)


def _vocabulary(forge: Forge, change: Callable[[list[bytes]], None]) -> None:
    """Change the list of tokens and keep the other lists as long as it is."""
    items = tokens()
    change(items)
    forge.set("tokenizer.ggml.tokens", ARRAY, array(STRING, items))


# --- header: the count and length overflows of 2024 -------------------------------


@bad("bad-rank")
def cve_2024_21802_tensor_rank_beyond_four(forge: Forge) -> None:
    forge.tensors[0].dimensions = (WIDTH, 259, 1, 1, 1)


@bad("array-too-long")
def cve_2024_21825_string_array_count_overflow(forge: Forge) -> None:
    forge.set("x.strings", ARRAY, array(STRING, [b"a"], count=2**61))


@bad("array-too-long")
def cve_2024_21825_number_array_count_overflow(forge: Forge) -> None:
    forge.set("x.numbers", ARRAY, array(I32, [1], count=2**62 + 1))


@bad("tensor-count")
def cve_2024_21836_tensor_count_overflow(forge: Forge) -> None:
    forge.tensor_count = HUGE


@bad("string-too-long")
def cve_2024_23496_string_length_minus_one(forge: Forge) -> None:
    forge.pairs[b"x.string"] = (STRING, string(b"abc", HUGE))


@bad("string-too-long")
def cve_2024_23496_key_length_minus_one(forge: Forge) -> None:
    data = string(b"k", HUGE)
    forge.extra_pairs = [(b"x", STRING, string(b"y") + data)]
    forge.pair_count = len(forge.pairs) + 2


@bad("pair-count")
def cve_2024_23605_pair_count_overflow(forge: Forge) -> None:
    forge.pair_count = 2**60


@bad("truncated")
def cve_2024_32878_pairs_promised_but_file_ends(forge: Forge) -> None:
    forge.pair_count = len(forge.pairs) + 1
    size = 24 + sum(8 + len(k) + 4 + len(v) for k, (_, v) in forge.pairs.items())
    forge.cut = size + 3


@bad("string-too-long")
def cve_2025_49847_token_length_over_two_gib(forge: Forge) -> None:
    body = struct.pack("<IQ", STRING, 259) + string(b"a", 2**31 + 1)
    forge.set("tokenizer.ggml.tokens", ARRAY, body)


@bad("token-too-long")
def cve_2025_49847_token_of_five_thousand_bytes(forge: Forge) -> None:
    _vocabulary(forge, lambda items: items.__setitem__(0, b"a" * 5000))


@bad("array-too-long")
def cve_2025_52566_vocabulary_over_two_billion(forge: Forge) -> None:
    forge.set("tokenizer.ggml.tokens", ARRAY, array(STRING, [b"a"], count=2**31 + 7))


@bad("tensor-beyond-file")
def cve_2025_53630_tensor_sizes_that_sum_to_zero(forge: Forge) -> None:
    # 2**24 of these in the original; here each alone is more than the file.
    for tensor in forge.tensors[1:5]:
        tensor.dimensions = (2**40,)


@bad("tensor-size")
def cve_2026_27940_dimension_product_overflow(forge: Forge) -> None:
    forge.tensors[0].dimensions = (2**32, 2**32)


@bad("tensor-size")
def cve_2026_33298_row_bytes_overflow(forge: Forge) -> None:
    forge.tensors[0].dimensions = (2**63 - 1, 4)


@bad("nested-array")
def forty_three_byte_file_that_hangs_a_reader(forge: Forge) -> None:
    forge.pairs = {b"abc": (ARRAY, struct.pack("<IQ", ARRAY, HUGE))}
    forge.tensors, forge.tensor_count, forge.cut = [], 1, 43


@bad("nested-array")
def array_of_arrays(forge: Forge) -> None:
    forge.set("x.nested", ARRAY, struct.pack("<IQ", ARRAY, 1) + array(U8, [1]))


@bad("bad-value-type")
def value_of_unknown_type(forge: Forge) -> None:
    forge.pairs[b"x"] = (99, b"")


@bad("bad-bool")
def flag_that_is_two(forge: Forge) -> None:
    forge.set("tokenizer.ggml.add_bos_token", BOOL, 2)


@bad("bad-magic")
def other_magic_number(forge: Forge) -> None:
    forge.magic = b"GGML"


@bad("bad-version")
def version_one(forge: Forge) -> None:
    forge.version = 1


@bad("bad-version")
def big_endian_version_three(forge: Forge) -> None:
    forge.version = 3 << 24


@bad("duplicate-key")
def key_that_occurs_twice(forge: Forge) -> None:
    forge.extra_pairs = [(b"general.architecture", STRING, string(b"llama"))]


@bad("duplicate-key")
def empty_key(forge: Forge) -> None:
    forge.extra_pairs = [(b"", U8, b"\1")]


@bad("nul-in-string")
def key_that_a_c_string_cuts_short(forge: Forge) -> None:
    forge.extra_pairs = [(b"general.architecture\0x", STRING, string(b"clip"))]


@bad("invalid-utf8")
def string_that_is_not_utf8(forge: Forge) -> None:
    forge.set("general.name", STRING, b"\xff\xfe")


@bad("duplicate-tensor")
def tensor_name_that_occurs_twice(forge: Forge) -> None:
    forge.tensors[2].name = forge.tensors[1].name


@bad("string-too-long")
def tensor_name_of_sixty_four_bytes(forge: Forge) -> None:
    forge.tensors[1].name = b"n" * 64


# --- kind of file -----------------------------------------------------------------


_set("architecture_not_on_the_list", "architecture", "general.architecture", STRING, "clip")
_set("architecture_that_is_a_number", "type-confusion", "general.architecture", U32, 7)
_set("part_of_a_split_model", "split-file", "split.count", U32, 3)
_set("adapter_instead_of_model", "not-a-model", "general.type", STRING, "adapter")


# --- hyperparameters --------------------------------------------------------------


@bad("missing-hyperparameter")
def no_block_count(forge: Forge) -> None:
    del forge.pairs[b"llama.block_count"]


_set("no_heads", "zero-hyperparameter", "llama.attention.head_count", U32, 0)
_set("no_key_value_heads", "zero-hyperparameter", "llama.attention.head_count_kv", U32, 0)
_set("heads_that_cannot_be_shared", "head-count", "llama.attention.head_count_kv", U32, 3)
_set("block_count_over_the_limit", "hyperparameter-bounds", "llama.block_count", U32, 513)
_set("block_count_of_another_type", "wrong-type", "llama.block_count", U64, 1)
_set("width_over_the_limit", "hyperparameter-bounds", "llama.embedding_length", U32, 2**31)
_set("context_over_the_limit", "hyperparameter-bounds", "llama.context_length", U32, 2**32 - 1)
_set("heads_that_do_not_divide_the_width", "head-size", "llama.attention.head_count", U32, 5)
_set("rope_beyond_the_head", "rope-dimensions", "llama.rope.dimension_count", U32, 64)
_set("odd_rope", "rope-dimensions", "llama.rope.dimension_count", U32, 15)
_set("partial_rope_in_llama", "rope-dimensions", "llama.rope.dimension_count", U32, 8)
_set("nan_epsilon", "bad-real", "llama.attention.layer_norm_rms_epsilon", F32, math.nan)
_set("infinite_rope_base", "bad-real", "llama.rope.freq_base", F32, math.inf)
_set("negative_rope_base", "bad-real", "llama.rope.freq_base", F32, -1.0)
_set("unknown_rope_scaling", "rope-scaling", "llama.rope.scaling.type", STRING, "su")
_set("mixture_of_experts", "mixture-of-experts", "llama.expert_count", U32, 8)
_set("unknown_hyperparameter", "unknown-hyperparameter", "llama.novelty", U32, 1)
_set(
    "hyperparameter_per_layer",
    "array-hyperparameter",
    "llama.attention.head_count",
    ARRAY,
    array(U32, [2]),
)
_set("vocabulary_size_that_disagrees", "vocabulary-size", "llama.vocab_size", U32, 300)


# --- tokenizer --------------------------------------------------------------------


_set("tokenizer_of_unknown_kind", "tokenizer-model", "tokenizer.ggml.model", STRING, "rwkv")
_set(
    "type_confused_tokens",
    "type-confusion",
    "tokenizer.ggml.tokens",
    ARRAY,
    array(I32, [0] * 259),
)
_set(
    "type_confused_scores",
    "type-confusion",
    "tokenizer.ggml.scores",
    ARRAY,
    array(STRING, [b""] * 259),
)
_set("type_confused_types", "type-confusion", "tokenizer.ggml.token_type", ARRAY, array(F32, [1.0]))
_set("tokens_that_are_a_string", "type-confusion", "tokenizer.ggml.tokens", STRING, "abc")
_set("scores_too_few", "unequal-lengths", "tokenizer.ggml.scores", ARRAY, array(F32, [0.0]))
_set("types_too_few", "unequal-lengths", "tokenizer.ggml.token_type", ARRAY, array(I32, [1]))
_set("unknown_tokenizer_key", "unknown-tokenizer-key", "tokenizer.ggml.charsmap", U32, 1)
_set("bos_beyond_the_vocabulary", "special-token", "tokenizer.ggml.bos_token_id", U32, 259)
_set("eot_beyond_the_vocabulary", "special-token", "tokenizer.ggml.eot_token_id", U32, 2**32 - 1)
_set("bos_that_is_a_string", "type-confusion", "tokenizer.ggml.bos_token_id", STRING, "1")
_set(
    "score_that_is_nan",
    "bad-score",
    "tokenizer.ggml.scores",
    ARRAY,
    array(F32, [math.nan] + [0.0] * 258),
)
_set(
    "token_of_unknown_type",
    "token-type",
    "tokenizer.ggml.token_type",
    ARRAY,
    array(I32, [-1, *types()[1:]]),
)
_set(
    "byte_that_is_no_byte_token",
    "byte-token",
    "tokenizer.ggml.token_type",
    ARRAY,
    array(I32, [6, *types()[1:]]),
)
_set("empty_vocabulary", "missing-vocabulary", "tokenizer.ggml.tokens", ARRAY, array(STRING, []))


@bad("missing-vocabulary")
def no_token_types(forge: Forge) -> None:
    del forge.pairs[b"tokenizer.ggml.token_type"]


@bad("byte-token")
def byte_token_minus_one(forge: Forge) -> None:
    _vocabulary(forge, lambda items: items.__setitem__(3, b"<0x-1>"))


@bad("byte-token")
def byte_token_in_lower_case(forge: Forge) -> None:
    _vocabulary(forge, lambda items: items.__setitem__(13, b"<0x0a>"))


@bad("duplicate-token")
def token_that_occurs_twice(forge: Forge) -> None:
    _vocabulary(forge, lambda items: items.__setitem__(0, b"<s>"))


@bad("duplicate-token")
def empty_token_renamed_onto_another(forge: Forge) -> None:
    def change(items: list[bytes]) -> None:
        items[0], items[1] = b"", b"[EMPTY_0]"

    _vocabulary(forge, change)


@bad("nul-in-token")
def token_that_a_c_string_cuts_short(forge: Forge) -> None:
    _vocabulary(forge, lambda items: items.__setitem__(0, b"<s>\0"))


@bad("invalid-utf8")
def token_that_is_not_utf8(forge: Forge) -> None:
    _vocabulary(forge, lambda items: items.__setitem__(0, b"\xc3"))


@bad("missing-vocabulary")
def byte_level_without_merges(forge: Forge) -> None:
    forge.set("tokenizer.ggml.model", STRING, "gpt2")


@bad("bad-merge")
def merge_of_one_token(forge: Forge) -> None:
    forge.set("tokenizer.ggml.model", STRING, "gpt2")
    forge.set("tokenizer.ggml.merges", ARRAY, array(STRING, [b"a b", b"ab"]))


# --- tensors ----------------------------------------------------------------------


_set("alignment_zero", "bad-alignment", "general.alignment", U32, 0)
_set("alignment_three", "bad-alignment", "general.alignment", U32, 3)
_set("alignment_of_a_gibibyte", "bad-alignment", "general.alignment", U32, 1 << 30)
_set("alignment_that_is_a_string", "type-confusion", "general.alignment", STRING, "32")


@bad("tensor-type")
def removed_tensor_type(forge: Forge) -> None:
    forge.tensors[0].type = 4


@bad("tensor-type")
def tensor_type_minus_one(forge: Forge) -> None:
    forge.tensors[0].type = 2**32 - 1


@bad("row-size")
def row_that_is_no_whole_block(forge: Forge) -> None:
    forge.tensors[0].type = 12


@bad("misaligned-tensor")
def offset_that_is_not_aligned(forge: Forge) -> None:
    forge.tensors[1].offset = 1


@bad("tensor-offset")
def tensors_that_overlap(forge: Forge) -> None:
    forge.tensors[2].offset = 0


@bad("tensor-offset")
def offset_minus_one_block(forge: Forge) -> None:
    forge.tensors[2].offset = -32


@bad("tensor-beyond-file")
def file_cut_in_the_data(forge: Forge) -> None:
    forge.cut = len(forge.encode()) - 64


@bad("trailing-data")
def archive_behind_the_last_tensor(forge: Forge) -> None:
    forge.trailing = b"PK\3\4" + bytes(60)


@bad("wrong-shape")
def embedding_with_fewer_rows_than_tokens(forge: Forge) -> None:
    forge.tensors[0].dimensions = (WIDTH, 200)


@bad("tensor-size")
def tensor_with_a_zero_dimension(forge: Forge) -> None:
    forge.tensors[1].dimensions = (0,)


@bad("bad-rank")
def tensor_without_dimensions(forge: Forge) -> None:
    forge.tensors[1].dimensions = ()


@bad("missing-tensor")
def no_output_norm(forge: Forge) -> None:
    forge.tensors.pop()


@bad("unknown-tensor")
def tensor_of_another_architecture(forge: Forge) -> None:
    forge.tensors.append(Tensor(b"blk.0.ffn_gate_exps.weight", (WIDTH, WIDTH)))


@bad("block-number")
def tensor_of_a_block_beyond_the_count(forge: Forge) -> None:
    forge.tensors.append(Tensor(b"blk.7.attn_norm.weight", (WIDTH,)))
