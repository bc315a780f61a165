"""New networks from a recipe.

Weights come from torch's global generator: the caller seeds it, and the same seed gives
the same network. On torch's meta device (`with torch.device("meta")`) nothing is
allocated, which is how a recipe's memory is estimated before the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import RecipeError
from trainer.models.convolution import Convolution, ConvolutionConfig
from trainer.models.decoder import build_decoder
from trainer.models.encoder import build_encoder
from trainer.models.network import Network
from trainer.models.recurrent import Recurrent, RecurrentConfig
from trainer.models.seq2seq import build_seq2seq

if TYPE_CHECKING:
    from trainer.data.special import SpecialTokens
    from trainer.recipe.schema import ModelOptions, ObjectiveOptions

_LABELLED = ("classification", "tagging")


def build_network(
    options: ModelOptions,
    objective: ObjectiveOptions,
    *,
    vocabulary_size: int,
    context: int,
    special: SpecialTokens,
    labels: tuple[str, ...] = (),
) -> Network:
    """Make a new network.

    Args:
        options: family and sizes.
        objective: what it will learn; decides the output layer.
        vocabulary_size: of the tokenizer.
        context: tokens of the longest sequence.
        special: ids of the tokenizer's special tokens.
        labels: the classes in order, for classification and tagging.

    Raises:
        RecipeError: sizes that do not fit one another, a task without its labels, or a
            family that is no `Network` (word embeddings).
    """
    if objective.kind in _LABELLED and len(labels) < 2:
        raise RecipeError(f"{objective.kind} needs two labels at least; there are {len(labels)}")
    named = labels if objective.kind in _LABELLED else ()
    if options.family == "decoder":
        return build_decoder(
            options, vocabulary_size=vocabulary_size, context=context, special=special, labels=named
        )
    if options.family == "encoder":
        return build_encoder(
            options,
            objective.kind,
            vocabulary_size=vocabulary_size,
            context=context,
            special=special,
            labels=named,
        )
    if options.family == "seq2seq":
        return build_seq2seq(
            options, vocabulary_size=vocabulary_size, context=context, special=special
        )
    if options.family == "recurrent":
        return _recurrent(
            options,
            objective,
            vocabulary_size=vocabulary_size,
            context=context,
            pad=special.pad,
            labels=named,
        )
    if options.family == "convolution":
        config = ConvolutionConfig(
            vocab_size=vocabulary_size,
            embedding_size=options.width,
            kernel_sizes=options.kernel_sizes,
            filters=options.filters,
            dropout=options.new_dropout,
            max_position_embeddings=context,
            pad_token_id=special.pad,
        )
        return Convolution(config, named)
    raise RecipeError(f"the family {options.family!r} is trained in a way of its own")


def _recurrent(
    options: ModelOptions,
    objective: ObjectiveOptions,
    *,
    vocabulary_size: int,
    context: int,
    pad: int | None,
    labels: tuple[str, ...],
) -> Recurrent:
    adaptive = objective.softmax == "adaptive"
    if adaptive and labels:
        raise RecipeError(
            "objective.softmax is 'adaptive', which is for large vocabularies; a classifier "
            "takes 'full'"
        )
    pooling = "none"
    if labels:
        pooling = "mean" if options.pooling == "mean" else "last"
    config = RecurrentConfig(
        vocab_size=vocabulary_size,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        cell=options.cell,
        dropout=options.new_dropout,
        tie_word_embeddings=options.tie_embeddings and not labels and not adaptive,
        max_position_embeddings=context,
        pad_token_id=pad,
        pooling=pooling,
        cutoffs=objective.cutoffs if adaptive else None,
    )
    return Recurrent(config, labels)
