"""From a directory of safetensors to one GGUF file that llama.cpp runs.

    export.py        export_gguf: the order of things, checks, atomic write
    origin.py        what the source is allowed to be; a checkpoint against its record
    configuration.py, families.py, rope.py, model.py
                     config.json: which decoders, and what their files will hold
    pieces.py, bytelevel.py, characters.py, sentencepiece.py, pretokenizers.py, specials.py,
    vocabulary.py    tokenizer.json in llama.cpp's terms
    writing.py       the file, block by block
    parity.py        the proof that llama.cpp gives the same tokens (tokenize_process.py)
    converter.py     any other architecture: llama.cpp's own converter, if it is there

It refuses what it cannot prove: an architecture or a tokenizer of which llama.cpp computes
something else. Nothing of torch is needed.
"""
