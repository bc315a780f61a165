"""What the GGUF of a decoder will hold: hyperparameters, and each tensor with its source.

Decided from config.json alone, before a weight is looked at; `check_tensors` then holds
the weights against it. A tensor too few, too many or of another shape is refused: what is
not understood is not dropped.

llama.cpp's llama architecture rotates neighbouring elements of a head, transformers the
two halves of it. Both turn the same pairs of numbers when the rows of q and k are
reordered: row i of the first half and row i of the second become rows 2i and 2i + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.errors import SourceError
from compiler.gguf_export.configuration import Configuration, Sizes, read_sizes
from compiler.gguf_export.families import Family, family_of
from compiler.gguf_export.rope import Rope, read_rope
from compiler.weights.reading import Weights

_EMBEDDING = "model.embed_tokens.weight"
_OUTPUT = "lm_head.weight"
# Constants that older files hold; they are computed.
_CONSTANTS = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the GGUF.

    Attributes:
        name: there.
        source: its name in the weights.
        shape: slowest dimension first, the same on both sides.
        heads: reorder the rows of this many heads for interleaved rotation; 0 for none.
        add_one: the source stores the difference from 1.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    heads: int = 0
    add_one: bool = False

    @property
    def row_order(self) -> NDArray[np.int64] | None:
        """Return which row of the source each row is, or None for as they are."""
        if not self.heads:
            return None
        rows = np.arange(self.shape[0], dtype=np.int64)
        return rows.reshape(self.heads, 2, -1).swapaxes(1, 2).reshape(-1)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A decoder in llama.cpp's terms.

    Attributes:
        architecture: `general.architecture`.
        sizes: of the model; `context` is the longest input that is computed exactly.
        tied: the output layer is the embedding.
        counts: hyperparameters under the architecture's prefix, uint32.
        reals: the same, float32.
        words: the same, text.
        tensors: in the order of the file.
        divisors: float32[head width / 2] for `rope_freqs.weight`, or None.
        notes: what differs from the source, for a person.
    """

    architecture: str
    sizes: Sizes
    tied: bool
    counts: Mapping[str, int]
    reals: Mapping[str, float]
    words: Mapping[str, str]
    tensors: tuple[TensorPlan, ...]
    divisors: NDArray[np.float32] | None
    notes: tuple[str, ...]


def plan_model(config: Configuration) -> ModelPlan:
    """Plan the export of a decoder; `config` has its family's defaults.

    Raises:
        SourceError: something about it is not computed by llama.cpp, or not exported.
    """
    family = family_of(config)
    key, allowed = family.activation
    if config.text(key) not in allowed:
        raise config.refuse(f"{key} is {config.text(key)!r}; exported is {', '.join(allowed)}")
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_width)
    context, notes = _context(config, family, sizes)
    if family.gemma:
        _check_gemma(config, sizes)
    counts = {
        "vocab_size": sizes.vocabulary,
        "context_length": context,
        "embedding_length": sizes.width,
        "block_count": sizes.layers,
        "feed_forward_length": sizes.inner,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_width,
        "attention.value_length": sizes.head_width,
        "rope.dimension_count": sizes.head_width,
    }
    reals = {
        "attention.layer_norm_rms_epsilon": config.real("rms_norm_eps"),
        "rope.freq_base": rope.base,
    }
    if family.gemma:
        counts["attention.sliding_window"] = config.count("sliding_window", 1 << 24)
        reals["rope.freq_base_swa"] = config.real("rope_local_base_freq")
    tied = config.flag("tie_word_embeddings")
    return ModelPlan(
        architecture=family.architecture,
        sizes=Sizes(**{**_fields(sizes), "context": context}),
        tied=tied,
        counts=counts,
        reals=reals | _stretched(rope),
        words={} if rope.linear_factor is None else {"rope.scaling.type": "linear"},
        tensors=tuple(_tensors(config, family, sizes, tied=tied)),
        divisors=rope.divisors,
        notes=notes,
    )


def _fields(sizes: Sizes) -> dict[str, int]:
    return {name: getattr(sizes, name) for name in Sizes.__slots__}


def _stretched(rope: Rope) -> dict[str, float]:
    return {} if rope.linear_factor is None else {"rope.scaling.factor": rope.linear_factor}


def _context(config: Configuration, family: Family, sizes: Sizes) -> tuple[int, tuple[str, ...]]:
    """Return the longest input for which no layer's window limits attention, and why."""
    window = None
    if not family.gemma:
        kinds = config.raw("layer_types")
        slides = isinstance(kinds, list) and "sliding_attention" in kinds
        if slides or config.flag("use_sliding_window") or config.text("model_type") == "mistral":
            window = config.optional_count("sliding_window", 1 << 24)
    if window is None or window >= sizes.context:
        return sizes.context, ()
    note = (
        f"the context is {window} tokens, not {sizes.context}: beyond its window of attention "
        "llama.cpp would compute something else"
    )
    return window, (note,)


def _check_gemma(config: Configuration, sizes: Sizes) -> None:
    """Refuse what llama.cpp's gemma3 fixes otherwise."""
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if config.raw(name) is not None:
            raise config.refuse(f"{name} is not exported")
    for name in ("attention_bias", "use_bidirectional_attention"):
        if config.flag(name):
            raise config.refuse(f"{name} is not exported")
    if config.raw("query_pre_attn_scalar") != sizes.head_width:
        raise config.refuse("query_pre_attn_scalar is not the width of a head, which it has to be")
    # llama.cpp scales the model with this many layers (27B) in another way.
    if sizes.layers == 62:
        raise config.refuse("this size of Gemma 3 is not exported")
    kinds = config.raw("layer_types")
    wanted = [
        "full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(sizes.layers)
    ]
    if kinds is not None and kinds != wanted:
        raise config.refuse("layer_types is not five windows and one full layer, repeated")
    if config.raw("sliding_window_pattern") not in (None, 6):
        raise config.refuse("sliding_window_pattern is not 6")


def _tensors(
    config: Configuration, family: Family, sizes: Sizes, *, tied: bool
) -> Iterator[TensorPlan]:
    table = (sizes.vocabulary, sizes.width)
    yield TensorPlan("token_embd.weight", _EMBEDDING, table)
    for layer in range(sizes.layers):
        for plan in _layer(config, family, sizes):
            yield TensorPlan(
                f"blk.{layer}.{plan.name}",
                f"model.layers.{layer}.{plan.source}",
                plan.shape,
                plan.heads,
                plan.add_one,
            )
    yield TensorPlan(
        "output_norm.weight", "model.norm.weight", (sizes.width,), add_one=family.gemma
    )
    if not tied:
        yield TensorPlan("output.weight", _OUTPUT, table)


def _layer(config: Configuration, family: Family, sizes: Sizes) -> Iterator[TensorPlan]:
    """Yield the tensors of one layer, named within it."""
    width, inner = sizes.width, sizes.inner
    queries, keys = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
    turned = (sizes.heads, sizes.kv_heads) if family.interleaved else (0, 0)
    bias = config.flag("attention_bias")
    if bias and not family.optional_bias:
        raise config.refuse("attention_bias is not exported for this architecture")
    qkv_bias = bias or family.qkv_bias
    yield _norm("attn_norm", "input_layernorm", width, family)
    for name, source, rows, heads in (
        ("attn_q", "q_proj", queries, turned[0]),
        ("attn_k", "k_proj", keys, turned[1]),
        ("attn_v", "v_proj", keys, 0),
    ):
        yield from _linear(name, f"self_attn.{source}", (rows, width), heads, bias=qkv_bias)
    yield from _linear("attn_output", "self_attn.o_proj", (width, queries), bias=bias)
    if family.qk_norm:
        yield _norm("attn_q_norm", "self_attn.q_norm", sizes.head_width, family)
        yield _norm("attn_k_norm", "self_attn.k_norm", sizes.head_width, family)
    if family.gemma:
        yield _norm("post_attention_norm", "post_attention_layernorm", width, family)
        yield _norm("ffn_norm", "pre_feedforward_layernorm", width, family)
        yield _norm("post_ffw_norm", "post_feedforward_layernorm", width, family)
    else:
        yield _norm("ffn_norm", "post_attention_layernorm", width, family)
    mlp_bias = family.optional_bias and config.flag("mlp_bias")
    yield from _linear("ffn_gate", "mlp.gate_proj", (inner, width), bias=mlp_bias)
    yield from _linear("ffn_up", "mlp.up_proj", (inner, width), bias=mlp_bias)
    yield from _linear("ffn_down", "mlp.down_proj", (width, inner), bias=mlp_bias)


def _norm(name: str, source: str, width: int, family: Family) -> TensorPlan:
    return TensorPlan(f"{name}.weight", f"{source}.weight", (width,), add_one=family.gemma)


def _linear(
    name: str, source: str, shape: tuple[int, int], heads: int = 0, *, bias: bool
) -> Iterator[TensorPlan]:
    yield TensorPlan(f"{name}.weight", f"{source}.weight", shape, heads)
    if bias:
        yield TensorPlan(f"{name}.bias", f"{source}.bias", shape[:1], heads)


def check_tensors(plan: ModelPlan, weights: Weights, config: Configuration) -> None:
    """Hold the weights against the plan.

    Raises:
        SourceError: a tensor is missing, left over, of another shape, or no plain number.
    """
    weights.require_floats()
    wanted = {tensor.source: tensor.shape for tensor in plan.tensors}
    for name, shape in wanted.items():
        tensor = weights.tensors.get(name)
        if tensor is None:
            raise config.refuse(f"the weights lack the tensor {name!r} that it calls for")
        if tensor.shape != shape:
            raise SourceError(
                f"{tensor.path}: {name!r} has the shape {tensor.shape}; {config.path.name} says "
                f"{shape}"
            )
    for name, tensor in weights.tensors.items():
        tied_copy = plan.tied and name == _OUTPUT
        if name not in wanted and not tied_copy and not name.endswith(_CONSTANTS):
            raise SourceError(
                f"{tensor.path}: {name!r} has no place in a model of the type "
                f"{config.text('model_type')!r}"
            )
