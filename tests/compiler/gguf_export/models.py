"""Tiny models with random weights, tokenizers trained on a few sentences, and llama.cpp's
answers about the GGUF files that are made of them."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

os.environ.pop("GGML_BACKEND_PATH", None)

from llama_cpp import llama_cpp as c_api

from compiler.gguf_export.parity import TEXTS

END = "<|endoftext|>"
UNKNOWN = "<unk>"
VOCABULARY = 400
CORPUS = [
    *TEXTS,
    "the keeper lights the lamp, and the lighthouse sees the boat.",
    "it's 1234 o'clock; they're here, we'll see 56789 boats they've lost",
    "naïve cafés — 東京 and Привет 12 the lamp the boat\n\n  indented\ttext",
]
Logits = NDArray[np.float32]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CASED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(expression: str) -> Any:
    from tokenizers import Regex

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "gpt-2 spelled out": lambda: split(GPT2),
    "smollm": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama-bpe": lambda: split(CASED % "{1,3}"),
    "smaug-bpe": lambda: split(CASED % "{1,3}"),
    "qwen2": lambda: split(CASED % ""),
}


def byte_level(
    name: str = "gpt-2", *, corpus: Sequence[str] = CORPUS, size: int = VOCABULARY
) -> Tokenizer:
    """A byte-level BPE whose texts are cut as llama.cpp's pre-tokenizer `name` does."""
    raw = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    raw.pre_tokenizer = PRE_TOKENIZERS[name]()
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=1,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(corpus, trainer)
    return raw


def characters(corpus: Sequence[str] = CORPUS) -> Tokenizer:
    """A vocabulary of characters, as the trainer makes it."""
    from tokenizers import Regex

    found = sorted({character for text in corpus for character in text})
    ids = {token: number for number, token in enumerate([END, UNKNOWN, *found])}
    raw = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    raw.add_special_tokens([END, UNKNOWN])
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    return raw


def sentencepiece(*, prefix: bool) -> Tokenizer:
    """A BPE with byte fallback whose merges are all the ways to make its tokens."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, min_frequency=1, show_progress=False)
    learned.train_from_iterator(
        [text for text in CORPUS if not {"▁", "\0"}.intersection(text)], trainer
    )
    by_rank = sorted(learned.get_vocab().items(), key=lambda item: item[1])
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token, _ in by_rank]
    ids = {token: number for number, token in enumerate(tokens)}
    merges = [
        (token[:cut], token[cut:])
        for token in tokens[259:]
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    raw = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    raw.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    raw.add_special_tokens(["<unk>", "<s>", "</s>"])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return raw


def write_tokenizer(folder: Path, tokenizer: Tokenizer, **settings: Any) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    end = END if tokenizer.token_to_id(END) is not None else "</s>"
    stated = {"eos_token": end, "tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))


def write_model(
    folder: Path, family: str = "llama", tokenizer: Tokenizer | None = None, **changes: Any
) -> Any:
    """Write a tiny model of random weights with its tokenizer; return it."""
    import torch
    import transformers

    tokenizer = tokenizer or byte_level()
    write_tokenizer(folder, tokenizer)
    sizes: dict[str, Any] = {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
        **changes,
    }
    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "gemma3_text": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    }[family]
    torch.manual_seed(1)
    model = model_class(config_class(**sizes)).eval()
    with torch.no_grad():
        # New models have ones and zeros here, which would hide a norm or bias left out.
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def reference_logits(model: Any, ids: Sequence[int]) -> Logits:
    """What transformers computes: [tokens, vocabulary]."""
    import torch

    with torch.no_grad():
        logits: Logits = model(torch.tensor([list(ids)])).logits[0].float().numpy()
    return logits


@c_api.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _silent(_level: int, _text: bytes, _data: Any) -> None:
    """llama.cpp's messages are no part of a test's output."""


class Llama:
    """A GGUF in llama.cpp; close it."""

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        c_api.llama_log_set(_silent, ctypes.c_void_p(0))
        c_api.llama_backend_init()
        options = c_api.llama_model_default_params()
        options.vocab_only = vocabulary_only
        self._model: Any = c_api.llama_model_load_from_file(str(path).encode(), options)
        assert self._model, "llama.cpp does not load it"
        self._vocabulary = c_api.llama_model_get_vocab(self._model)
        self.size = int(c_api.llama_vocab_n_tokens(self._vocabulary))

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        c_api.llama_model_free(self._model)

    def tokenize(self, text: str, *, parsed: bool = False) -> list[int]:
        data = text.encode()
        buffer = (ctypes.c_int32 * (len(data) + 8))()
        count = c_api.llama_tokenize(
            self._vocabulary, data, len(data), buffer, len(buffer), False, parsed
        )
        return list(buffer[:count])

    def logits(self, ids: Sequence[int]) -> Logits:
        """What llama.cpp computes: [tokens, vocabulary], with a float32 KV cache."""
        options = c_api.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = 1
        options.flash_attn_type = c_api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.type_k = options.type_v = 0
        context = c_api.llama_init_from_model(self._model, options)
        batch = c_api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = 1
        try:
            assert c_api.llama_decode(context, batch) == 0
            rows = [
                np.ctypeslib.as_array(c_api.llama_get_logits_ith(context, row), (self.size,))
                for row in range(len(ids))
            ]
            return np.stack(rows).copy()
        finally:
            c_api.llama_batch_free(batch)
            c_api.llama_free(context)
