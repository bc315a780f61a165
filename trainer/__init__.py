"""Where models come from: pretraining and finetuning, on one CPU or many GPUs.

A run goes through these parts, in this order:

    recipe          everything that decides a run, as validated values
    data            text -> tokenizer -> memory-mapped shards -> deterministic batches
    models          networks in three parts: features, task layer, output layer
    objectives      what is minimized: sums over targets, so that ranks add up exactly
    optimization    optimizers, schedules, early stopping
    distribution    ranks: who they are, how they share work, how their death is noticed
    checkpointing   what is kept to resume from, and the export the compiler takes
    loop            the training step and validation
    evaluation      metrics of a checkpoint; probability of a text
    reporting       progress, TensorBoard, the HTML report
    embeddings      word embeddings by negative sampling, in native code

The output is a directory in the Hugging Face layout with `training.json` beside the
weights (docs/formats/checkpoint.md). Nothing here talks to a network other than the
run's own ranks, loads a pickle that somebody else made, or writes a training text
into a log or an error.
"""
