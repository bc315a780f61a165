"""Private updates drop nothing out.

What one record adds to a sum must not depend on which others were drawn. Dropout masks come
from the place of a record in its batch; one record more moves all that follow it to other
places, so every other gradient would change as well, each by up to twice the clip, and the
sum by far more than the claim allows for.
"""

from __future__ import annotations

from torch import nn


def switch_dropout_off(module: nn.Module) -> None:
    """Put a module into a state in which it trains and draws no random numbers.

    Everything is in evaluation mode but recurrent layers, whose kernels for GPUs give
    gradients in training mode only; their own dropout is set to 0.
    """
    module.eval()
    for each in module.modules():
        if isinstance(each, nn.RNNBase):
            each.dropout = 0.0
            each.train()
