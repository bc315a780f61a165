"""What a pass is, and the states of a graph that passes need and ensure.

A pass may change the model that it is given and returns the one to go on with; nobody
keeps the old one. So a pass costs no second copy of the weights.
"""

from __future__ import annotations

from typing import Protocol

from onnx import ModelProto

# States of a graph. A state once ensured holds until the end: no later pass may undo it.
CONSTANTS_NAMED = "constants-named"  # no Constant nodes: every constant is an initializer
FOLDED = "folded"  # no node has constants for all of its inputs, unless the result is large
NO_TRAINING = "no-training"  # no Dropout, no Identity, no outputs for training alone
UNIQUE_CONSTANTS = "unique-constants"  # no two initializers hold the same tensor
UNIQUE_EXPRESSIONS = "unique-expressions"  # no two nodes compute the same value
FUSED = "fused"  # GELU, LayerNorm and attention are single operators where recognised
ALL_USED = "all-used"  # every node and initializer reaches an output
SHAPES = "shapes"  # value_info holds the inferred type and shape of values


class GraphPass(Protocol):
    """One rewriting of a graph.

    Attributes:
        name: for progress and errors.
        needs: states that the graph must be in.
        ensures: states that it is in afterwards.
    """

    @property
    def name(self) -> str:
        """The pass's name."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """States that the graph must be in before."""
        ...

    @property
    def ensures(self) -> frozenset[str]:
        """States that the graph is in afterwards."""
        ...

    def run(self, model: ModelProto) -> ModelProto:
        """Return the rewritten model; the one given may have been changed in place."""
        ...
