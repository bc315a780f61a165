"""Run llama.cpp's converter after telling it the name of a pre-tokenizer:
python convert_launch.py NAME SCRIPT ARGUMENT...

The converter knows the tokenizers of published models by a digest of what they make of one
text, and refuses every other byte-level BPE, though all that it needs of it is the name of a
regular expression. The compiler knows that name from tokenizer.json itself. Only a tokenizer that
the converter does not know gets it; whether llama.cpp then gives the source's tokens is proven
afterwards, as for every file.

It imports nothing of ours: it runs where the converter runs, with the converter's own packages.
A converter of another layout is run as it is.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def teach(name: str) -> None:
    """Have the converter take `name` where it would not know a byte-level BPE."""
    try:
        from conversion.base import TextModel  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return
    known = TextModel.get_vocab_base_pre

    def named(model: Any, tokenizer: Any) -> str:
        try:
            return str(known(model, tokenizer))
        except NotImplementedError:
            return name

    TextModel.get_vocab_base_pre = named


def main(arguments: list[str]) -> None:
    """Become the converter, within this interpreter."""
    name, script, *rest = arguments
    sys.argv = [script, *rest]
    # As if it had been started itself: its modules, not those beside this file.
    sys.path[0] = str(Path(script).parent)
    teach(name)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
