"""Put beside a graph what is needed to use it: configuration, tokenizer, pooling.

Only files of known names are taken, bounded and as they are; nothing that could be code
or weights. A folder of word pieces alone (vocab.txt) does not make a tokenizer here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compiler.bundling.copying import write_file
from compiler.files import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, read_bytes
from compiler.source.listing import files_beside

TOKENIZER_FILE: Final = "tokenizer.json"
_LEGAL: Final = ("LICENSE", "NOTICE")


def pack(source: Path, target: Path) -> bool:
    """Copy what belongs to a model; return whether it has a tokenizer.

    Raises:
        SourceError: a file is too large, cannot be read, or is a link that leads elsewhere.
        OSError: a file cannot be written.
    """
    names = [*files_beside(source), *(name for name in _LEGAL if (source / name).is_file())]
    for name in names:
        most = MAX_TOKENIZER_BYTES if name == TOKENIZER_FILE else MAX_CONFIG_BYTES
        data = read_bytes(source / name, most, source)
        (target / name).parent.mkdir(exist_ok=True)
        write_file(target / name, data)
    return TOKENIZER_FILE in names
