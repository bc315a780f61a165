"""Text and labelled examples, from files to deterministic batches.

    sources         files and directories -> documents, streamed and checked
    tokenization    tokenizers: wrap, load, save; training is in tokenizer_training
    shards          memory-mapped token shards with a manifest (docs/formats/shards.md)
    prepare         a recipe's text -> tokenizer and shards, kept for the next run
    text_dataset    windows over shards, document boundaries marked
    order           which item comes when: pure functions of seed and position
    loader          the micro-batches of a step, built ahead in the background
    corruption, augmentation, labelled, assemble
                    masks and spans, noise, labelled sets, and what a recipe gets of it all

Two properties carry the rest: the order and the noise of the data are pure functions
of (seed, position), so nothing has to be saved to resume; and no text of an example
appears in an error or a log, only its file, line or token range.
"""
