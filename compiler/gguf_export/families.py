"""The decoders that are exported here, and how each differs from the others.

| model_type | classes | GGUF architecture | rotation | besides |
| --- | --- | --- | --- | --- |
| llama | LlamaForCausalLM (also of the trainer) | llama | interleaved | optional biases |
| mistral | MistralForCausalLM | llama | interleaved | |
| qwen2 | Qwen2ForCausalLM | qwen2 | halves | biases of q, k and v |
| qwen3 | Qwen3ForCausalLM | qwen3 | halves | norms of q and k |
| gemma3_text | Gemma3ForCausalLM | gemma3 | halves | four norms, stored less 1; two windows |

Each was compared with transformers on random weights (tests) before it was listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from compiler.errors import SourceError
from compiler.gguf_export.configuration import Configuration

_WAY = "llama.cpp's own converter may know it (--converter, or CASEMATE_LLAMA_CPP)"
_OURS_WITHOUT_GGUF: Final = {
    "casemate-recurrent": "a recurrent network",
    "casemate-convolution": "a convolutional network",
    "casemate-word-embeddings": "a table of word embeddings",
    "casemate-transformer": "a network with layers that its stock class does not have",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One model_type.

    Attributes:
        architecture: `general.architecture`.
        model_class: what `architectures` in config.json must say.
        defaults: of the configuration's class, by name.
        interleaved: llama.cpp rotates neighbouring elements, so that the rows of q and k
            are reordered.
        qkv_bias: q, k and v have biases whatever the configuration says.
        optional_bias: `attention_bias` and `mlp_bias` may add biases.
        qk_norm: q and k are normalized head by head.
        gemma: four norms a layer, stored as the difference from 1.
        activation: the one that llama.cpp computes, as (key, allowed values).
    """

    architecture: str
    model_class: str
    defaults: Mapping[str, Any]
    interleaved: bool = False
    qkv_bias: bool = False
    optional_bias: bool = False
    qk_norm: bool = False
    gemma: bool = False
    activation: tuple[str, frozenset[str]] = field(
        default=("hidden_act", frozenset({"silu", "swish"}))
    )


_COMMON: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "llama": Family(
            "llama",
            "LlamaForCausalLM",
            {
                **_COMMON,
                "vocab_size": 32000,
                "intermediate_size": 11008,
                "max_position_embeddings": 2048,
            },
            interleaved=True,
            optional_bias=True,
        ),
        "mistral": Family(
            "llama",
            "MistralForCausalLM",
            {
                **_COMMON,
                "vocab_size": 32000,
                "intermediate_size": 14336,
                "num_key_value_heads": 8,
                "max_position_embeddings": 131072,
                "sliding_window": 4096,
            },
            interleaved=True,
        ),
        "qwen2": Family(
            "qwen2",
            "Qwen2ForCausalLM",
            {
                **_COMMON,
                "vocab_size": 151936,
                "intermediate_size": 22016,
                "num_key_value_heads": 32,
                "max_position_embeddings": 32768,
                "use_sliding_window": False,
                "sliding_window": 4096,
            },
            qkv_bias=True,
        ),
        "qwen3": Family(
            "qwen3",
            "Qwen3ForCausalLM",
            {
                **_COMMON,
                "vocab_size": 151936,
                "intermediate_size": 22016,
                "num_key_value_heads": 32,
                "head_dim": 128,
                "max_position_embeddings": 32768,
                "use_sliding_window": False,
                "sliding_window": 4096,
                "attention_bias": False,
            },
            qk_norm=True,
        ),
        "gemma3_text": Family(
            "gemma3",
            "Gemma3ForCausalLM",
            {
                "vocab_size": 262208,
                "hidden_size": 2304,
                "intermediate_size": 9216,
                "num_hidden_layers": 26,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "hidden_activation": "gelu_pytorch_tanh",
                "max_position_embeddings": 131072,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1_000_000.0,
                "rope_local_base_freq": 10_000.0,
                "query_pre_attn_scalar": 256,
                "sliding_window": 4096,
                "tie_word_embeddings": True,
            },
            qk_norm=True,
            gemma=True,
            activation=("hidden_activation", frozenset({"gelu_pytorch_tanh"})),
        ),
    }
)


def is_exported(config: Configuration) -> bool:
    """Tell whether a model_type is exported here at all."""
    return config.text("model_type") in FAMILIES


def family_of(config: Configuration) -> Family:
    """Return the family of a configuration.

    Raises:
        SourceError: it is none of those, with the way to go instead.
    """
    kind = config.text("model_type")
    if kind in _OURS_WITHOUT_GGUF:
        raise config.refuse(
            f"{_OURS_WITHOUT_GGUF[kind]} ({kind}) has no GGUF architecture; compile it to ONNX"
        )
    family = FAMILIES.get(kind)
    if family is None:
        raise config.refuse(
            f"the architecture {kind!r} is not exported to GGUF here, only "
            f"{', '.join(FAMILIES)}; {_WAY}"
        )
    names = config.raw("architectures")
    if names is not None and names != [family.model_class]:
        raise _other_class(config, names, family)
    return family


def _other_class(config: Configuration, names: object, family: Family) -> SourceError:
    shown = ", ".join(map(str, names)) if isinstance(names, list) else str(names)
    return config.refuse(
        f"the model is a {shown[:200]}; only {family.model_class}, which generates text, is "
        "exported to GGUF; compile classifiers and encoders to ONNX"
    )
