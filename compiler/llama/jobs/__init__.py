"""What runs inside a child process: the only modules of the compiler that load llama.cpp.

Each module with a `serve(arguments, progress)` is a job for `compiler.llama.job.run_job`.
"""
