"""A stranger's tokenizer.json at work, in processes of its own.

file.py     what the compiler asks of a tokenizer, and the refusals
process.py  the process that answers: the only place that runs the tokenizers library

A tokenizer is a program: a normalizer of 40 replacements doubles a letter 40 times, a regular
expression runs for ever, a vocabulary without a token for the unknown panics. So its process
has bounds on memory and time, and its end is an error of the compiler's like another.
"""
