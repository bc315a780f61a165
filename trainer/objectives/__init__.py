"""What is minimized: each objective maps a network and a batch to sums over targets.

    loss            Loss and the Objective protocol
    build           the objective that a recipe names
    chunked         cross entropy over a vocabulary without the full matrix of logits
    adaptive        hierarchical softmax: the output layer and its loss
    language        next token, masked tokens, infilling, sequence to sequence
    classification  one class a text, one class a token
    contrastive     pairs of texts against the other pairs of the micro-batch

This package imports nothing here, so that `trainer.models` may use the adaptive
output layer while the objectives see the networks.
"""
