"""Decoders: Llama's classes with our sizes, and any other causal language model.

New ones are LlamaForCausalLM: rotary positions (Su et al. 2021), SwiGLU (Shazeer 2020),
RMSNorm (Zhang and Sennrich 2019), no biases. Weights start from N(0, 0.02), the
matrices that write into the residual stream from N(0, 0.02 / sqrt(2 layers)), as GPT-2's
do, so that the stream's variance does not grow with depth.

Where nothing but causality limits attention, no mask is made, so that torch's fused
causal kernels are used. The stock class builds one whenever it trains without a cache;
Llama is therefore run under a name for the same attention function that has no mask
function. With documents in the batch, the mask lets a token see its own document only.

A classifier reads the state of the last real token, as LlamaForSequenceClassification
does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trainer.errors import RecipeError
from trainer.models.depth import resolve_shape
from trainer.models.generation import generating, next_token
from trainer.models.pooling import last_token
from trainer.models.transformer import (
    Arrangement,
    TransformerNetwork,
    same_document,
)

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.data.special import SpecialTokens
    from trainer.recipe.schema import ModelOptions

# transformers makes no masks for a name that its registry of masks does not have.
_UNMASKED = "casemate_unmasked_sdpa"
AttentionInterface.register(_UNMASKED, sdpa_attention_forward)
_STANDARD_DEVIATION = 0.02
_RESIDUAL_WRITERS = ("o_proj.weight", "down_proj.weight")


class Decoder(TransformerNetwork):
    """A causal language model, or a classifier on one."""

    family: ClassVar[str] = "decoder"

    def __init__(
        self,
        core: PreTrainedModel,
        arrangement: Arrangement,
        *,
        labels: tuple[str, ...] = (),
        context: int,
    ) -> None:
        """Take a stock model apart; see `TransformerNetwork`."""
        super().__init__(core, arrangement, labels=labels, context=context)
        if core.config.model_type == "llama":
            core.config._attn_implementation = _UNMASKED

    def represent(self, batch: Batch) -> Tensor:
        """Compute the states of all tokens, or of the last real one of each text."""
        ids = batch["input_ids"]
        real = batch.get("attention_mask")
        if real is None and self.level == "text" and self.pad is not None:
            real = ids != self.pad
        states: Tensor = self.base(
            input_ids=ids,
            attention_mask=self._mask(batch, real),
            position_ids=batch.get("position_ids"),
            use_cache=False,
            return_dict=True,
        ).last_hidden_state
        return states if self.level == "token" else last_token(states, real)

    def _mask(self, batch: Batch, real: Tensor | None) -> Tensor | None:
        """Return who sees whom, bool [B, 1, T, T], or None for plain causality."""
        visible = same_document(batch)
        if visible is not None:
            self._require_masks()
        elif real is None:
            return None
        length = batch["input_ids"].shape[1]
        device = batch["input_ids"].device
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        visible = causal if visible is None else visible & causal
        if real is not None:
            # Padding sees itself: a row that sees nothing would be no number.
            itself = torch.eye(length, dtype=torch.bool, device=device)
            visible = visible & real.bool()[:, None, :] | itself
        return visible[:, None]

    def _require_masks(self) -> None:
        config = self.core.config
        window = getattr(config, "sliding_window", None)
        limited = window is not None and getattr(config, "use_sliding_window", True)
        if not self.keeps_documents or limited:
            raise RecipeError(
                f"a {config.model_type!r} network cannot keep attention inside documents; set "
                "data.boundaries to false"
            )

    def generate(
        self,
        ids: Tensor,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """Sample tokens with a key and value cache; see `Network.generate`.

        A text that outgrows the context goes on from its last half.
        """
        if self.arrangement.task != "language":
            return super().generate(ids, max_tokens, temperature, generator, stop)
        text, feed, cache, seen = ids, ids[:, -self.context :], None, 0
        with generating(self):
            for _ in range(max_tokens):
                if seen + feed.shape[1] > self.context:
                    feed, cache, seen = text[:, -max(1, self.context // 2) :], None, 0
                states = self.base(
                    input_ids=feed, past_key_values=cache, use_cache=True, return_dict=True
                )
                seen, cache = seen + feed.shape[1], states.past_key_values
                logits = self.logits(self.added(states.last_hidden_state[:, -1]))
                feed = next_token(logits, temperature, generator)
                if stop is not None and int(feed) == stop:
                    break
                text = torch.cat([text, feed], dim=1)
        return text[:, ids.shape[1] :]

    def initialize(self, modules: list[nn.Module]) -> None:
        """Give modules new weights; residual writers of Llama start smaller."""
        super().initialize(modules)
        if self.core.config.model_type == "llama":
            scale_residual_writers(modules, self.core.config.num_hidden_layers)


def build_decoder(
    options: ModelOptions,
    *,
    vocabulary_size: int,
    context: int,
    special: SpecialTokens,
    labels: tuple[str, ...],
) -> Decoder:
    """Make a new Llama-style decoder; a classifier if there are labels.

    Raises:
        RecipeError: sizes that do not fit one another.
    """
    shape = resolve_shape(options)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=context,
        attention_dropout=options.new_dropout,
        tie_word_embeddings=options.tie_embeddings and not labels,
        initializer_range=_STANDARD_DEVIATION,
        pad_token_id=special.pad,
        bos_token_id=special.begin,
        eos_token_id=special.end,
        attn_implementation="sdpa",
    )
    if labels:
        config.num_labels = len(labels)
        core = LlamaForSequenceClassification(config)
        network = Decoder(
            core, Arrangement("classification", "stock"), labels=labels, context=context
        )
    else:
        network = Decoder(
            LlamaForCausalLM(config), Arrangement("language", "none"), context=context
        )
    scale_residual_writers([network.core], shape.layers)
    return network


@torch.no_grad()
def scale_residual_writers(modules: list[nn.Module], layers: int) -> None:
    """Divide fresh weights that write into the residual stream by sqrt(2 layers)."""
    for module in modules:
        for name, parameter in module.named_parameters():
            if name.endswith(_RESIDUAL_WRITERS):
                parameter.div_(math.sqrt(2 * layers))
