"""Run every benchmark, one after the other, and print the tables.

    python -m benchmarks [NAME ...]      # default: all of them

Each writes `benchmarks/results/<name>.json` with its command, the machine and the
versions. They want a quiet machine: nothing else should run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHMARKS = (
    "serving",
    "prefix",
    "encoder",
    "audit_log",
    "footprint",
    "training_step",
    "shakespeare",
    "sentiment",
    "regularization",
    "softmax",
    "chunked_loss",
    "word_embeddings",
    "secrets",
    "private_step",
    "private_sentiment",
    "onnx_encoder",
    "onnx_parity",
    "gguf_parity",
    "gguf_quality",
    "compile_memory",
    "tuner",
)


def main() -> None:
    """Run the named benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or BENCHMARKS
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    for name in names:
        print(f"== {name}", flush=True)
        # A process each: what one leaves loaded must not weigh on the next.
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
