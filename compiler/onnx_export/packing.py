"""Put beside a graph what is needed to use it: configuration, tokenizer, pooling.

Only files of known names are taken, bounded and as they are; nothing that could be code
or weights. A folder of word pieces alone (vocab.txt) does not make a tokenizer here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compiler.bundling.copying import write_file
from compiler.errors import SourceError
from compiler.files import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, read_bytes, read_json

TOKENIZER_FILE: Final = "tokenizer.json"
_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "LICENSE",
    "NOTICE",
)
_MODULES_FILE: Final = "modules.json"


def pack(source: Path, target: Path) -> bool:
    """Copy what belongs to a model; return whether it has a tokenizer.

    Raises:
        SourceError: a file is too large or cannot be read.
        OSError: a file cannot be written.
    """
    for name in _FILES:
        if (source / name).is_file():
            write_file(target / name, read_bytes(source / name, MAX_CONFIG_BYTES))
    for folder in _modules(source):
        if (source / folder / "config.json").is_file():
            (target / folder).mkdir(exist_ok=True)
            data = read_bytes(source / folder / "config.json", MAX_CONFIG_BYTES)
            write_file(target / folder / "config.json", data)
    if not (source / TOKENIZER_FILE).is_file():
        return False
    write_file(target / TOKENIZER_FILE, read_bytes(source / TOKENIZER_FILE, MAX_TOKENIZER_BYTES))
    return True


def _modules(source: Path) -> list[str]:
    """Return the folders of modules that sentence-transformers names; plain names only."""
    path = source / _MODULES_FILE
    if not path.is_file():
        return []
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(item, dict) for item in modules):
        raise SourceError(f"{path}: is not a list of modules")
    places = [item.get("path") for item in modules]
    return [
        p for p in places if isinstance(p, str) and p not in ("", ".", "..") and Path(p).name == p
    ]
