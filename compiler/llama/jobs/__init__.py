"""What runs inside a child process: the only modules of the compiler that load llama.cpp.

Each module with a `run(arguments, progress)` is a job in `compiler.llama.worker`.
"""
