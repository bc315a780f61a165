"""Throw mutants of valid model files at the pre-parsers.

    python -m tests.fuzz.fuzz_preparse --iterations 100000

For every mutant: the pre-parser returns, or raises UnsafeModelError and nothing else,
within a second; and the process stays under the memory limit. Mutants are a function
of the seed and their number, so a finding can be made again with --start.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from security.errors import UnsafeModelError
from security.preparse import check_gguf, check_onnx
from tests.preparse.bad_onnx import valid as valid_onnx
from tests.preparse.forge_gguf import as_descriptor
from tests.preparse.forge_gguf import valid as valid_gguf
from tests.support.tiny_models import tiny_gguf, tiny_onnx

MAX_SECONDS = 1.0
MAX_MEMORY_BYTES = 256 << 20
# Values that arithmetic trips over, as they would stand in a count or an offset.
_EDGES = [0, 1, 2, 7, 31, 32, 63, 64, 127, 128, 255, 256, 2**15, 2**16, 2**20, 2**31 - 1]
_EDGES += [2**31, 2**32 - 1, 2**32, 2**40, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]

Check = Callable[[int, int], object]


@dataclass
class Findings:
    """What a run saw; `problems` is empty when all is well."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def mutate(random_: random.Random, seeds: Sequence[bytes], header: int) -> bytes:
    """Return a mutant: one to six small changes, most of them in the first `header` bytes."""
    data = bytearray(random_.choice(seeds))
    for _ in range(random_.randint(1, 6)):
        if not data:
            break
        end = min(len(data), header) if random_.random() < 0.95 else len(data)
        place = random_.randrange(end)
        _CHANGES[random_.randrange(len(_CHANGES))](random_, data, place)
    return bytes(data)


def _flip(random_: random.Random, data: bytearray, place: int) -> None:
    data[place] ^= 1 << random_.randrange(8)


def _byte(random_: random.Random, data: bytearray, place: int) -> None:
    data[place] = random_.randrange(256)


def _number(random_: random.Random, data: bytearray, place: int) -> None:
    value = random_.choice(_EDGES)
    width = random_.choice((1, 2, 4, 8))
    data[place : place + width] = struct.pack("<Q", value)[:width]


def _varint(random_: random.Random, data: bytearray, place: int) -> None:
    value, out = random_.choice(_EDGES), bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    data[place : place + 1] = bytes([*out, value])


def _delete(random_: random.Random, data: bytearray, place: int) -> None:
    del data[place : place + random_.randint(1, 64)]


def _repeat(random_: random.Random, data: bytearray, place: int) -> None:
    length = random_.randint(1, 256)
    data[place:place] = data[place : place + length] * random_.randint(1, 4)


def _truncate(random_: random.Random, data: bytearray, place: int) -> None:
    del data[place:]


_CHANGES = (_flip, _flip, _byte, _number, _number, _varint, _delete, _repeat, _truncate)


def run(check: Check, seeds: Sequence[bytes], header: int, numbers: range, seed: int) -> Findings:
    """Check the mutants with these numbers."""
    findings = Findings()
    before = _peak_bytes()
    for number in numbers:
        mutant = mutate(random.Random(f"{seed}:{number}"), seeds, header)
        descriptor = as_descriptor(mutant)
        started = time.process_time()
        try:
            check(descriptor, len(mutant))
            findings.accepted += 1
        except UnsafeModelError as error:
            findings.refused[error.reason] += 1
        except Exception:
            findings.problems.append(f"mutant {number}: {traceback.format_exc()}")
        finally:
            os.close(descriptor)
        seconds = time.process_time() - started
        findings.slowest_seconds = max(findings.slowest_seconds, seconds)
        if seconds > MAX_SECONDS:
            findings.problems.append(f"mutant {number}: took {seconds:.2f} s")
    grown = _peak_bytes() - before
    if grown > MAX_MEMORY_BYTES:
        findings.problems.append(f"the process grew by {grown >> 20} MiB")
    return findings


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def targets() -> dict[str, tuple[Check, list[bytes], int]]:
    """Return each format's check, seeds, and how many bytes of a seed are interesting."""
    with tempfile.TemporaryDirectory() as folder:
        gguf = tiny_gguf(Path(folder) / "tiny.gguf").read_bytes()
        onnx = tiny_onnx(Path(folder) / "tiny.onnx").read_bytes()
    return {
        "gguf": (check_gguf, [valid_gguf().encode(), gguf], 9_000),
        "onnx": (check_onnx, [bytes(valid_onnx().SerializeToString()), onnx], 2_000),
    }


def main() -> int:
    """Run both formats; exit code 1 if there was a problem."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=100_000, help="mutants of each format")
    parser.add_argument("--start", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    numbers = range(arguments.start, arguments.start + arguments.iterations)
    failed = False
    for name, (check, seeds, header) in targets().items():
        started = time.monotonic()
        found = run(check, seeds, header, numbers, arguments.seed)
        refused = ", ".join(f"{reason} {count}" for reason, count in found.refused.most_common())
        print(f"{name}: {len(numbers)} mutants in {time.monotonic() - started:.0f} s")
        print(f"  accepted {found.accepted}, slowest {found.slowest_seconds * 1000:.1f} ms")
        print(f"  refused: {refused}")
        for problem in found.problems[:20]:
            print("  PROBLEM", problem)
        failed = failed or bool(found.problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
