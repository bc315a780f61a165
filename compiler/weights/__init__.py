"""Weights in safetensors files: one reader for every export.

    files.py    which files of a folder hold the weights
    header.py   what one file says that it holds, verified before anything is read
    reading.py  open_weights: tensors by name, read a piece at a time

Pickled weights are never opened. Format: https://github.com/huggingface/safetensors#format
"""
