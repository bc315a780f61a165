"""From a directory of safetensors to one GGUF file that llama.cpp runs.

export.py        export_gguf: the order of things, checks, atomic write
converter.py     any other architecture: llama.cpp's own converter, if it is there
"""
