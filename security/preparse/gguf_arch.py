"""The architectures that may be served, their hyperparameters and their tensors.

Deliberate lists, all of them: dense decoder-only transformers that the engine serves.
Mixtures of experts, adapters, encoders, multimodal projectors and everything newer are
refused until someone adds and tests them. Under an architecture's own prefix an
unknown hyperparameter is refused too, because that is the part of the metadata that
steers llama.cpp's graph building.

Tensor shapes are written as words over hyperparameters, fastest dimension first, as in
the file; each must match exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from security.preparse.gguf_wire import Array, Scalar, ValueType
from security.preparse.limits import GgufLimits
from security.preparse.refuse import refuse, shown

ARCHITECTURES = frozenset({"llama", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "phi3"})
# llama.cpp wants the rotation to cover a whole head for these.
_FULL_ROTATION = frozenset({"llama"})
_ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})

_COUNTS = frozenset(
    {
        "vocab_size",
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "rope.scaling.original_context_length",
        "attention.sliding_window",
    }
)
_MAY_BE_ZERO = frozenset({"attention.sliding_window"})
_REAL = frozenset(
    {
        "attention.layer_norm_rms_epsilon",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.local.freq_base",
        "rope.scale_linear",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "rope.scaling.yarn_log_multiplier",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    }
)
_FLAGS = frozenset({"rope.scaling.finetuned", "use_parallel_residual"})
_WORDS = frozenset({"rope.scaling.type", "tensor_data_layout"})
# Accepted when zero, which says "none"; anything else is an architecture we refuse.
_ONLY_ZERO = frozenset({"expert_count", "expert_used_count"})
_TYPES = (
    dict.fromkeys(_COUNTS | _ONLY_ZERO, ValueType.UINT32)
    | dict.fromkeys(_REAL, ValueType.FLOAT32)
    | dict.fromkeys(_FLAGS, ValueType.BOOL)
    | dict.fromkeys(_WORDS, ValueType.STRING)
)
_REQUIRED = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
_MAX_REAL = 1e12


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The sizes that the tensor shapes are made of, all of them positive."""

    context_length: int
    embedding_length: int
    block_count: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    key_length: int
    value_length: int
    rope_dimensions: int
    vocabulary_size: int


def read_hyperparameters(
    architecture: str,
    pairs: dict[str, Scalar | Array],
    vocabulary_size: int,
    limits: GgufLimits,
) -> Hyperparameters:
    """Check all keys under the architecture's prefix and return the sizes.

    Raises:
        UnsafeModelError: unknown key, wrong type, out of bounds or inconsistent.
    """
    prefix = architecture + "."
    found = {key[len(prefix) :]: item for key, item in pairs.items() if key.startswith(prefix)}
    counts: dict[str, int] = {}
    for name, item in found.items():
        _check_key(prefix + name, name, item)
        if name in _COUNTS and isinstance(item, Scalar) and isinstance(item.value, int):
            counts[name] = item.value
    for name in _REQUIRED:
        if name not in found:
            refuse("missing-hyperparameter", f"the file has no {prefix}{name}")
    sizes = _sizes(counts, vocabulary_size)
    _check_bounds(sizes, limits)
    _check_consistency(architecture, counts, sizes)
    return sizes


def _check_key(key: str, name: str, item: Scalar | Array) -> None:
    if isinstance(item, Array):
        refuse("array-hyperparameter", f"{shown(key)} is an array; one value for all is allowed")
    wanted = _TYPES.get(name)
    if wanted is None:
        refuse("unknown-hyperparameter", f"{shown(key)} is not a known hyperparameter")
    if item.type is not wanted:
        refuse("wrong-type", f"{shown(key)} must be a {wanted.name} value")
    if name in _ONLY_ZERO and item.value != 0:
        refuse("mixture-of-experts", f"{shown(key)} is not 0: experts are not supported")
    if name in _COUNTS - _MAY_BE_ZERO and item.value == 0:
        refuse("zero-hyperparameter", f"{shown(key)} is 0")
    # A NaN fails this comparison as well.
    if isinstance(item.value, float) and not 0.0 <= item.value <= _MAX_REAL:
        refuse("bad-real", f"{shown(key)} is not a finite number from 0 up")
    if name == "rope.scaling.type" and item.value not in _ROPE_SCALINGS:
        refuse("rope-scaling", f"{shown(key)} is none of {', '.join(sorted(_ROPE_SCALINGS))}")


def _sizes(counts: dict[str, int], vocabulary_size: int) -> Hyperparameters:
    heads = counts["attention.head_count"]
    width = counts["embedding_length"]
    key_length = counts.get("attention.key_length")
    value_length = counts.get("attention.value_length")
    if (key_length is None or value_length is None) and width % heads:
        refuse("head-size", f"the width {width} is not a multiple of {heads} heads")
    key_length = key_length if key_length is not None else width // heads
    return Hyperparameters(
        context_length=counts["context_length"],
        embedding_length=width,
        block_count=counts["block_count"],
        feed_forward_length=counts["feed_forward_length"],
        head_count=heads,
        head_count_kv=counts.get("attention.head_count_kv", heads),
        key_length=key_length,
        value_length=value_length if value_length is not None else width // heads,
        rope_dimensions=counts.get("rope.dimension_count", key_length),
        vocabulary_size=vocabulary_size,
    )


def _check_bounds(sizes: Hyperparameters, limits: GgufLimits) -> None:
    bounds = {
        "context_length": limits.max_context_tokens,
        "embedding_length": limits.max_width,
        "feed_forward_length": limits.max_width,
        "block_count": limits.max_blocks,
        "head_count": limits.max_heads,
        "head_count_kv": limits.max_heads,
        "key_length": limits.max_width,
        "value_length": limits.max_width,
    }
    for name, limit in bounds.items():
        value = getattr(sizes, name)
        if not 1 <= value <= limit:
            refuse("hyperparameter-bounds", f"{name} is {value}; 1 to {limit} is allowed")


def _check_consistency(architecture: str, counts: dict[str, int], sizes: Hyperparameters) -> None:
    if sizes.head_count % sizes.head_count_kv:
        refuse(
            "head-count",
            f"{sizes.head_count} heads cannot share {sizes.head_count_kv} key-value heads",
        )
    rope = sizes.rope_dimensions
    if rope > sizes.key_length or rope % 2:
        refuse("rope-dimensions", f"{rope} rotated dimensions in a head of {sizes.key_length}")
    if architecture in _FULL_ROTATION and rope != sizes.key_length:
        refuse("rope-dimensions", f"{rope} rotated dimensions; a head has {sizes.key_length}")
    declared = counts.get("vocab_size", sizes.vocabulary_size)
    if declared != sizes.vocabulary_size:
        refuse(
            "vocabulary-size",
            f"vocab_size says {declared}, but the tokenizer has {sizes.vocabulary_size} tokens",
        )


_GLOBAL_TENSORS = {
    "token_embd.weight": ("width", "vocabulary"),
    "output_norm.weight": ("width",),
    "output.weight": ("width", "vocabulary"),
    "output.bias": ("vocabulary",),
    "rope_freqs.weight": ("half-rope",),
    "rope_factors_long.weight": ("half-rope",),
    "rope_factors_short.weight": ("half-rope",),
}
_BLOCK_TENSORS = {
    "attn_norm.weight": ("width",),
    "attn_q.weight": ("width", "queries"),
    "attn_k.weight": ("width", "keys"),
    "attn_v.weight": ("width", "values"),
    "attn_q.bias": ("queries",),
    "attn_k.bias": ("keys",),
    "attn_v.bias": ("values",),
    "attn_qkv.weight": ("width", "fused"),
    "attn_qkv.bias": ("fused",),
    "attn_q_norm.weight": ("key",),
    "attn_k_norm.weight": ("key",),
    "attn_output.weight": ("mixed", "width"),
    "attn_output.bias": ("width",),
    "post_attention_norm.weight": ("width",),
    "ffn_norm.weight": ("width",),
    "ffn_gate.weight": ("width", "inner"),
    "ffn_up.weight": ("width", "inner"),
    "ffn_down.weight": ("inner", "width"),
    "ffn_gate.bias": ("inner",),
    "ffn_up.bias": ("inner",),
    "ffn_down.bias": ("width",),
    "post_ffw_norm.weight": ("width",),
    "rope_freqs.weight": ("half-rope",),
}
# Gate and up projection in one matrix.
_ARCHITECTURE_TENSORS = {"phi3": {"ffn_up.weight": ("width", "double-inner")}}
_REQUIRED_GLOBAL = ("token_embd.weight", "output_norm.weight")
_REQUIRED_BLOCK = ("attn_norm.weight", "attn_output.weight", "ffn_norm.weight", "ffn_down.weight")
_BLOCK_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.([a-z_]+\.(?:weight|bias))", re.ASCII)


def check_shapes(
    architecture: str, sizes: Hyperparameters, tensors: dict[str, tuple[int, ...]]
) -> None:
    """Check that every tensor is known, belongs to a block and has its exact shape.

    Args:
        architecture: one of ARCHITECTURES.
        sizes: as `read_hyperparameters` returned them.
        tensors: dimensions by tensor name, fastest first.
    """
    words = _dimension_words(sizes)
    block_shapes = _BLOCK_TENSORS | _ARCHITECTURE_TENSORS.get(architecture, {})
    for name, dimensions in tensors.items():
        shape = _GLOBAL_TENSORS.get(name)
        match = _BLOCK_NAME.fullmatch(name)
        if match is not None:
            if int(match[1]) >= sizes.block_count:
                refuse("block-number", f"{shown(name)} is beyond {sizes.block_count} blocks")
            shape = block_shapes.get(match[2])
        if shape is None:
            refuse("unknown-tensor", f"{shown(name)} is no tensor of {architecture} models")
        expected = tuple(words[word] for word in shape)
        if dimensions != expected:
            refuse(
                "wrong-shape",
                f"{shown(name)} has the shape {dimensions}; its hyperparameters say {expected}",
            )
    needed = [*_REQUIRED_GLOBAL]
    needed += [
        f"blk.{block}.{part}" for block in range(sizes.block_count) for part in _REQUIRED_BLOCK
    ]
    for name in needed:
        if name not in tensors:
            refuse("missing-tensor", f"the tensor {name} is missing")


def _dimension_words(sizes: Hyperparameters) -> dict[str, int]:
    queries = sizes.head_count * sizes.key_length
    keys = sizes.head_count_kv * sizes.key_length
    values = sizes.head_count_kv * sizes.value_length
    return {
        "width": sizes.embedding_length,
        "vocabulary": sizes.vocabulary_size,
        "inner": sizes.feed_forward_length,
        "double-inner": 2 * sizes.feed_forward_length,
        "queries": queries,
        "keys": keys,
        "values": values,
        "fused": queries + keys + values,
        "mixed": sizes.head_count * sizes.value_length,
        "key": sizes.key_length,
        "half-rope": sizes.rope_dimensions // 2,
    }
