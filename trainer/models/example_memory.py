"""What gradients of single examples need of memory, beside what an ordinary pass needs.

A private update does not write every example's gradient out. Of a matrix [O, I] a layer
keeps, for each example of T tokens, the smaller of

    T x O numbers    the gradient of its output (its input is among the activations)
    O x I numbers    the example's own gradient, written out

until the whole pass is done, since an example is clipped by the norm of all its layers.
A table keeps the rows that were looked up, a vector its own size. While norms and sums
are made, one more layer's worth exists for a moment. All of that is counted beside the
whole of the activations, though some of them are gone by then. When the weights move, the
sums exist three times instead. The tests hold the whole estimate to within a factor of 1.5
of a process's peak.
"""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from trainer.models.network import Network

_FLOAT = 4  # bytes
_INDEX = 16  # bytes of the two numbers that place a looked-up row
# The sums of an update, one copy of them as a vector, and the fresh sums of the next.
_MORE_SUMS = 2


def example_memory(network: Network, rows: int, length: int) -> int:
    """Return the bytes that per-example gradients need beside sums and activations.

    Args:
        network: parts frozen, adapters in place; may be on torch's meta device.
        rows: examples of one pass.
        length: tokens of an example.
    """
    kept, moment, trained = 0, 0, 0
    for name, layer in network.named_modules():
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        trained += sum(parameter.numel() for parameter in own)
        # The gradient of logits over tokens is counted with the logits.
        if not own or (layer is network.output and network.level == "token"):
            continue
        tokens = 1 if _sees_texts(network, name) else length
        for parameter in own:
            layer_kept, layer_moment = _of_weight(layer, parameter, rows, tokens)
            kept, moment = kept + layer_kept, max(moment, layer_moment)
    return max(kept + moment, _MORE_SUMS * _FLOAT * trained)


def _sees_texts(network: Network, name: str) -> bool:
    """Whether a layer has one state for each text: what follows the pooling."""
    return network.level == "text" and not name.startswith("core")


def _of_weight(
    layer: nn.Module, parameter: nn.Parameter, rows: int, tokens: int
) -> tuple[int, int]:
    """Return the bytes that a weight keeps in a pass, and those it needs for a moment."""
    if isinstance(layer, nn.Embedding):
        looked_up = rows * min(tokens, layer.num_embeddings)
        line = _FLOAT * layer.embedding_dim
        return looked_up * (line + _INDEX), rows * tokens * line
    if parameter.dim() != 2:
        return _FLOAT * rows * parameter.numel(), 0
    high, wide = parameter.shape
    if isinstance(layer, Conv1D):
        high, wide = wide, high
    if high * wide <= tokens * (high + wide):
        return _FLOAT * rows * high * wide, 0
    products = _FLOAT * 3 * rows * tokens * tokens
    outputs = _FLOAT * rows * tokens * high
    return outputs, max(products, outputs)
