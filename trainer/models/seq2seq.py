"""Encoder-decoders: T5 (version 1.1) with our sizes, and others that transformers knows.

New ones are T5ForConditionalGeneration with gated GELU (Raffel et al. 2020; Shazeer
2020) and relative positions. Weights start as T5's do: by the width of what they read,
without a division of the attention scores. An output layer that is not tied starts from
N(0, 1 / sqrt(width)), where T5's N(0, 1) would give a loss of hundreds of nats.

The encoder (and the input table) is the feature extractor, the decoder the task layer.
Sources are padded and masked; several documents in one sequence are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, T5Config, T5ForConditionalGeneration

from trainer.errors import RecipeError
from trainer.models.depth import resolve_shape
from trainer.models.generation import generating, next_token
from trainer.models.network import training_flops
from trainer.models.transformer import Arrangement, TransformerNetwork, layers_of

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.data.special import SpecialTokens
    from trainer.recipe.schema import ModelOptions


class Seq2Seq(TransformerNetwork):
    """An encoder that reads the source and a decoder that writes the target."""

    family: ClassVar[str] = "seq2seq"

    def __init__(self, core: PreTrainedModel, *, context: int) -> None:
        """Take a stock model apart; see `TransformerNetwork`."""
        super().__init__(core, Arrangement("language", "none"), context=context)
        self.start = first_target_token(core.config)

    @property
    def features(self) -> nn.Module:
        """The input table and the encoder."""
        return nn.ModuleList([self.core.get_input_embeddings(), self.core.get_encoder()])

    @property
    def task(self) -> nn.Module:
        """The decoder and added dense layers."""
        return nn.ModuleList([self.core.get_decoder(), *self.added])

    def represent(self, batch: Batch) -> Tensor:
        """Compute the decoder's states, [B, U, D]."""
        if "document_ids" in batch:
            raise RecipeError(
                "an encoder-decoder cannot keep attention inside documents; set "
                "data.boundaries to false"
            )
        return self._run(
            input_ids=batch["input_ids"],
            attention_mask=batch.get("attention_mask"),
            decoder_input_ids=self._begun(batch["decoder_input_ids"]),
            use_cache=False,
        )[0]

    def _begun(self, ids: Tensor) -> Tensor:
        """Return decoder inputs that begin as this network's do.

        Data sets know no networks and begin with padding, as T5 does; for another network
        that stands for the token that its own decoder begins with.
        """
        if self.pad is None or self.start == self.pad:
            return ids
        first = ids[:, :1]
        return torch.cat([first.masked_fill(first == self.pad, self.start), ids[:, 1:]], dim=1)

    def _run(self, **inputs: Any) -> tuple[Tensor, Any]:
        """Return what the output layer takes, and the cache."""
        # T5 scales the states of a tied output layer in its outer class; others add a
        # constant to the logits there.
        outer = self.base is self.core
        result = self.base(**inputs, return_dict=True)
        return result.logits if outer else result.last_hidden_state, result.past_key_values

    def generate(
        self,
        ids: Tensor,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """Sample the target of a source with a cache; see `Network.generate`."""
        feed, cache = torch.full_like(ids[:, :1], self.start), None
        written = ids[:, :0]
        with generating(self):
            source = self.core.get_encoder()(input_ids=ids, return_dict=True)
            for _ in range(max_tokens):
                states, cache = self._run(
                    encoder_outputs=source,
                    decoder_input_ids=feed,
                    past_key_values=cache,
                    use_cache=True,
                )
                logits = self.logits(self.added(states[:, -1]))
                feed = next_token(logits, temperature, generator)
                if stop is not None and int(feed) == stop:
                    break
                written = torch.cat([written, feed], dim=1)
        return written

    def flops(self, multiplied: int, layers: int) -> float:
        """Return the operations of a token, the mean over source and target.

        A token passes one of the two stacks; the decoder attends to both sides.
        """
        encoder = len(layers_of(self.core.get_encoder()))
        attending = encoder + 2 * (layers - encoder)
        return training_flops(multiplied, attending, self.attention_width, self.context) / 2

    def initialize(self, modules: list[nn.Module]) -> None:
        """Give modules new weights; T5 has no rule of its own for tables and heads."""
        super().initialize(modules)
        if self.core.config.model_type != "t5":
            return
        for module in modules:
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)


def first_target_token(config: PretrainedConfig) -> int:
    """Return the token that a network's decoder begins with.

    Raises:
        RecipeError: it does not say, or a second one is forced that depends on the target
            (the language, for mBART): targets here have the tokenizer's frame only.
    """
    start = getattr(config, "decoder_start_token_id", None)
    if not isinstance(start, int) or not 0 <= start < config.vocab_size:
        raise RecipeError(
            f"the configuration of this {config.model_type!r} network does not say with which "
            "token its targets begin; set decoder_start_token_id in its config.json"
        )
    require_unforced(getattr(config, "forced_bos_token_id", None), config)
    return start


def require_unforced(forced: object, config: PretrainedConfig) -> None:
    """Refuse a first target token that generation would force and training not teach.

    BART forces the token that its tokenizer begins every text with, which is taught.

    Raises:
        RecipeError: another one is forced.
    """
    if forced is not None and forced != getattr(config, "bos_token_id", None):
        raise RecipeError(
            f"this {config.model_type!r} network forces the first token of a target to be "
            f"{forced!r} (forced_bos_token_id), which training here would not teach; it is for "
            "another way of laying out targets"
        )


def build_seq2seq(
    options: ModelOptions, *, vocabulary_size: int, context: int, special: SpecialTokens
) -> Seq2Seq:
    """Make a new T5-style encoder-decoder.

    Raises:
        RecipeError: sizes that do not fit one another, or a tokenizer without a padding
            token (which starts the target).
    """
    if special.pad is None:
        raise RecipeError(
            "an encoder-decoder starts its targets with a padding token; there is none"
        )
    shape = resolve_shape(options)
    config = T5Config(
        vocab_size=vocabulary_size,
        d_model=shape.width,
        d_kv=shape.head_width,
        d_ff=shape.inner,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers,
        num_heads=shape.heads,
        n_positions=context,
        dropout_rate=options.new_dropout,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=options.tie_embeddings,
        pad_token_id=special.pad,
        eos_token_id=special.end,
        decoder_start_token_id=special.pad,
    )
    network = Seq2Seq(T5ForConditionalGeneration(config), context=context)
    if network.head is not None and not network.tied:
        network.initialize([network.head])
    return network
