"""Encoders: BERT's classes with our sizes, and any other that transformers knows.

    language        BertForMaskedLM
    classification  BertForSequenceClassification (pooled first token), or the mean of
                    the tokens, dropout and a linear layer
    tagging         BertForTokenClassification
    embedding       BertModel without its pooler, first token or mean

Weights start from N(0, 0.02), biases from 0, as BERT's do (Devlin et al. 2019). A
sentence embedding is saved in the layout of sentence-transformers: modules.json and
1_Pooling/config.json beside the model. No class of transformers classifies by the mean,
so such a network is saved under a model_type of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
)

from trainer.errors import RecipeError
from trainer.models import storage
from trainer.models.depth import resolve_shape
from trainer.models.network import config_value
from trainer.models.pooling import mean_of_tokens
from trainer.models.transformer import (
    Arrangement,
    Pooling,
    TransformerNetwork,
    same_document,
)
from trainer.models.weights import CONFIG_FILE

if TYPE_CHECKING:
    from trainer.data.batch import Batch
    from trainer.data.special import SpecialTokens
    from trainer.recipe.schema import ModelOptions

_STANDARD_DEVIATION = 0.02
# These take a mask for each pair of tokens, and positions from outside.
_BLOCK_MASKS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
# These number positions from the padding token's id on.
_SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "camembert")
POOLING_FOLDER = "1_Pooling"
_MODULES = (("", "Transformer"), (POOLING_FOLDER, "Pooling"), ("2_Normalize", "Normalize"))


class Encoder(TransformerNetwork):
    """A bidirectional transformer: masked LM, classifier, tagger or embedding."""

    family: ClassVar[str] = "encoder"

    def __init__(
        self,
        core: PreTrainedModel,
        arrangement: Arrangement,
        *,
        labels: tuple[str, ...] = (),
        context: int,
    ) -> None:
        """Take a stock model apart; see `TransformerNetwork`.

        A classifier that does not pool as its class does gets a base model as `core`
        and a new output layer.
        """
        own_head = arrangement.task == "classification" and arrangement.pooling != "stock"
        head = None
        if own_head:
            head = nn.Linear(config_value(core.config, "hidden_size"), len(labels))
        if own_head or arrangement.task == "embedding":
            # Unused, it would get no gradient.
            core.pooler = None
        super().__init__(core, arrangement, labels=labels, context=context, head=head)
        # Others know one type only, or none, and their tokenizers tell no texts apart.
        self.has_token_types = (getattr(core.config, "type_vocab_size", None) or 0) > 1
        chance = getattr(core.config, "hidden_dropout_prob", 0.0)
        self.dropout = nn.Dropout(chance if own_head else 0.0)
        if head is not None:
            self.initialize([head])

    def represent(self, batch: Batch) -> Tensor:
        """Compute states of tokens [B, T, D], or one vector of each text [B, D]."""
        real = batch.get("attention_mask")
        inputs = {"input_ids": batch["input_ids"], "attention_mask": real}
        if self.has_token_types and "token_type_ids" in batch:
            inputs["token_type_ids"] = batch["token_type_ids"]
        visible = same_document(batch)
        if visible is not None:
            inputs |= self._inside_documents(batch, visible, real)
        if self.arrangement.pooling in ("none", "stock"):
            # The identity in place of the output layer lets through what it would get.
            states: Tensor = self.core(**inputs, return_dict=True).logits
            return states
        tokens: Tensor = self.base(**inputs, return_dict=True).last_hidden_state
        pooled = tokens[:, 0]
        if self.arrangement.pooling == "mean":
            pooled = mean_of_tokens(tokens, real)
        vectors: Tensor = self.dropout(pooled)
        return vectors

    def _inside_documents(
        self, batch: Batch, visible: Tensor, real: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the mask [B, T, T] and the positions that keep documents apart."""
        kind = self.core.config.model_type
        if kind not in _BLOCK_MASKS or not self.keeps_documents:
            raise RecipeError(
                f"a {kind!r} network cannot keep attention inside documents; set "
                "data.boundaries to false"
            )
        if real is not None:
            visible = visible & real.bool()[:, None, :]
        positions = batch["position_ids"]
        if kind in _SHIFTED_POSITIONS:
            positions = positions + self.core.config.pad_token_id + 1
        return {"attention_mask": visible, "position_ids": positions}

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors, and the pooling of an embedding."""
        super().save(folder, state)
        if self.arrangement.task == "embedding" and self.is_stock:
            self._save_pooling(folder)

    def _save_pooling(self, folder: Path) -> None:
        modules = [
            {
                "idx": index,
                "name": str(index),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for index, (path, kind) in enumerate(_MODULES)
        ]
        storage.write_json(folder / "modules.json", modules)
        limits = {"max_seq_length": self.context, "do_lower_case": False}
        storage.write_json(folder / "sentence_bert_config.json", limits)
        (folder / POOLING_FOLDER).mkdir(exist_ok=True)
        pooling = {
            "word_embedding_dimension": config_value(self.core.config, "hidden_size"),
            "pooling_mode_cls_token": self.arrangement.pooling == "first",
            "pooling_mode_mean_tokens": self.arrangement.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        }
        storage.write_json(folder / POOLING_FOLDER / CONFIG_FILE, pooling)


def build_encoder(
    options: ModelOptions,
    objective: str,
    *,
    vocabulary_size: int,
    context: int,
    special: SpecialTokens,
    labels: tuple[str, ...],
) -> Encoder:
    """Make a new BERT-style encoder for an objective.

    Raises:
        RecipeError: sizes that do not fit one another.
    """
    shape = resolve_shape(options)
    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=context,
        hidden_dropout_prob=options.new_dropout,
        attention_probs_dropout_prob=options.new_dropout,
        tie_word_embeddings=options.tie_embeddings and objective == "masked",
        initializer_range=_STANDARD_DEVIATION,
        pad_token_id=special.pad,
        attn_implementation="sdpa",
    )
    if labels:
        config.num_labels = len(labels)
    arrangement = arrange(objective, options.pooling)
    return Encoder(_core(config, arrangement), arrangement, labels=labels, context=context)


def arrange(objective: str, pooling: str) -> Arrangement:
    """Return how an encoder serves an objective."""
    chosen: Pooling = "mean" if pooling == "mean" else "first"
    if objective == "classification":
        return Arrangement("classification", "mean" if chosen == "mean" else "stock")
    if objective == "tagging":
        return Arrangement("tagging", "none")
    if objective == "contrastive":
        return Arrangement("embedding", chosen)
    return Arrangement("language", "none")


def _core(config: BertConfig, arrangement: Arrangement) -> PreTrainedModel:
    if arrangement.task == "language":
        return BertForMaskedLM(config)
    if arrangement.task == "tagging":
        return BertForTokenClassification(config)
    if arrangement.pooling == "stock":
        return BertForSequenceClassification(config)
    return BertModel(config, add_pooling_layer=False)
