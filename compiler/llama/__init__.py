"""Everything of the compiler that runs llama.cpp, each job in a process of its own.

llama.cpp may abort a process on input that it did not expect (GGML_ASSERT), and a quantizer
holds whole tensors in memory. So every job is a child: it crashes, runs out of memory or is
stopped at its time limit alone, and its memory goes back with it. The pre-parser of
security/ reads a GGUF file before a child does.

    job.py           run_job: one of jobs/, in a child
    jobs/            what runs inside a child; nothing else imports llama_cpp
    plan.py          GgufPlan: which tensor gets which format, resolved against a file
    quantize.py      quantize_gguf: formats, untied output layer, better rounding
    imatrix.py       gather_imatrix: importance of columns, from calibration tokens
    rounding.py      error feedback and scale search at the same block layout
    quality.py       reference, compare: KL divergence, perplexity, agreement
    speed.py         measure_speed, measure_speeds: decode, prefill, load, memory
    sensitivity.py   which tensors bear a format and which do not
"""
