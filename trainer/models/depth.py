"""The shape of a transformer: from one dial, or from the values of a recipe.

`model.depth = d` gives d layers of width 64 d with d heads of width 64, and an inner
width of 8/3 of that for gated feed-forward layers (which have three matrices where
ungated ones of 4 times the width have two, so that both have the same weights;
Shazeer, "GLU variants improve transformer", 2020), rounded up to a multiple of 64. The
aspect ratio of 64 is that of GPT-2 and GPT-3 at 12 layers. Depth 12 is the 124M class.

Suggestions come with a shape; they are printed and never applied by themselves:

    tokens          20 a weight (Hoffmann et al. 2022, "Training compute-optimal large
                    language models")
    learning rate   6e-4 at width 768 and falling with 1 / width, which is close to what
                    GPT-3's table 2.1 has; at most 3e-3 for small widths
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import RecipeError
from trainer.recipe.schema import ModelOptions

_HEAD_WIDTH = 64
_TOKENS_PER_WEIGHT = 20
_REFERENCE_WIDTH = 768
_REFERENCE_RATE = 6e-4
_LARGEST_RATE = 3e-3
_GATED = ("decoder", "seq2seq")


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a transformer.

    Attributes:
        layers: of each stack (an encoder-decoder has two).
        width: of the hidden states.
        heads: of the queries.
        kv_heads: of the keys and values; divides `heads`.
        inner: width inside the feed-forward layers.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a shape asks for; for people, printed beside the recipe.

    Attributes:
        context: tokens of a sequence.
        learning_rate: peak, of AdamW.
        tokens: to train on until more weights would be the better use of the work.
    """

    context: int
    learning_rate: float
    tokens: int


def resolve_shape(options: ModelOptions) -> Shape:
    """Return the sizes that a recipe asks for.

    Raises:
        RecipeError: heads that do not divide the width, or one another.
    """
    gated = options.family in _GATED
    if options.depth:
        layers, width, heads = options.depth, _HEAD_WIDTH * options.depth, options.depth
    else:
        layers, width, heads = options.layers, options.width, options.heads
    inner = options.inner_width or (_round_up(width * 8 / 3) if gated else 4 * width)
    kv_heads = options.kv_heads or heads
    if width % heads:
        raise RecipeError(f"model.width is {width}, which {heads} heads do not divide evenly")
    if gated and (width // heads) % 2:
        raise RecipeError(
            f"heads of width {width // heads} (model.width / model.heads) cannot be rotated by "
            "position; an even width is needed"
        )
    if heads % kv_heads:
        raise RecipeError(f"model.kv_heads is {kv_heads}, which does not divide {heads} heads")
    return Shape(layers, width, heads, kv_heads, inner)


def suggest(shape: Shape, weights: int) -> Suggestion:
    """Return what a network of this shape with so many weights asks for."""
    rate = min(_LARGEST_RATE, _REFERENCE_RATE * _REFERENCE_WIDTH / shape.width)
    # From 256 for a network that learns on a laptop to 2048 from 16 layers on.
    context = min(2048, max(256, _power_of_two(128 * shape.layers)))
    return Suggestion(context, rate, _TOKENS_PER_WEIGHT * weights)


def _round_up(value: float, multiple: int = _HEAD_WIDTH) -> int:
    return -(-int(value) // multiple) * multiple


def _power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)
