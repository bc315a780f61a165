"""llama.cpp's own converter, for the architectures that are not exported here.

It is a program of somebody else's that reads files of somebody else's, so it runs as a
process of its own that cannot reach a network, with bounded memory and time, and sees a
folder with nothing but the weights, configuration and tokenizer in it: no code of the model
to run, no pickle to load, and a name that is always the same. What it writes is
pre-parsed and compared like anything else.

It is used only if the user has it: nothing is downloaded. What is recorded of it is enough
to get the same one again: the digest of its files, the version of its gguf package, and the
commit where it is a checkout.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gguf import GGUFReader

from compiler.child.program import run_program
from compiler.errors import SourceError
from compiler.files import read_text
from compiler.gguf_export.bytelevel import NFC_NOTE
from compiler.gguf_export.checkout import commit_of
from compiler.gguf_export.convert_process import NOT_ISOLATED
from compiler.gguf_export.pieces import TokenizerContent
from compiler.gguf_export.specials import Specials
from compiler.gguf_export.vocabulary import Vocabulary
from compiler.source.listing import model_files
from compiler.weights.reading import open_weights

SCRIPT_NAME: Final = "convert_hf_to_gguf.py"
ENVIRONMENT_NAME: Final = "CASEMATE_LLAMA_CPP"
TIMEOUT_SECONDS: Final = 3600
_MODULE: Final = "compiler.gguf_export.convert_process"
_LAUNCHER: Final = Path(__file__).with_name("convert_launch.py")
_BASE_MEMORY_BYTES: Final = 4 << 30
_MAX_VERSION_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Converter:
    """A converter that was found.

    Attributes:
        script: convert_hf_to_gguf.py.
        versions: what identifies it, by name.
    """

    script: Path
    versions: Mapping[str, str]


def find_converter(given: Path | None) -> Converter | None:
    """Return the converter that was given or that the environment names, or None.

    Raises:
        SourceError: what was given is none.
    """
    stated = given or (Path(value) if (value := os.environ.get(ENVIRONMENT_NAME)) else None)
    if stated is None:
        return None
    script = stated / SCRIPT_NAME if stated.is_dir() else stated
    if not script.is_file() or script.suffix != ".py":
        raise SourceError(f"{stated}: is neither {SCRIPT_NAME} nor a folder that holds it")
    return Converter(script.resolve(), _versions(script.resolve()))


def _versions(script: Path) -> dict[str, str]:
    """Return what tells one converter from another; each of it true, or left out.

    The digest of its files says it all and is always there; the version of its gguf package
    and the commit of a checkout are for people.
    """
    folder = script.parent
    digest = hashlib.sha256()
    parts = [p for name in ("conversion", "gguf-py/gguf") for p in (folder / name).rglob("*.py")]
    for path in [script, *sorted(parts)]:
        digest.update(hashlib.sha256(path.read_bytes()).hexdigest().encode())
        digest.update(f"  {path.relative_to(folder)}\n".encode())
    stated = {
        "converter.sha256": digest.hexdigest(),
        "converter.gguf": _gguf_version(folder / "gguf-py"),
        "converter.git": commit_of(folder),
    }
    return {name: value for name, value in stated.items() if value}


def _gguf_version(package: Path) -> str:
    """Return the version of the gguf package that a script loads, or "" if none is stated."""
    if not package.is_dir():
        # Without one beside it, it takes the one that is installed.
        return importlib.metadata.version("gguf")
    try:
        project = tomllib.loads(read_text(package / "pyproject.toml"))
    except (SourceError, tomllib.TOMLDecodeError):
        return ""
    # Since 0.19 as PEP 621 has it, before as Poetry had.
    for table in (project.get("project"), project.get("tool", {}).get("poetry")):
        version = table.get("version") if isinstance(table, dict) else None
        if isinstance(version, str):
            return version[:_MAX_VERSION_CHARS]
    return ""


def convert(
    source: Path,
    out: Path,
    dtype: str,
    tool: Converter,
    timeout_seconds: float = TIMEOUT_SECONDS,
    *,
    pre: str | None = None,
) -> None:
    """Run a converter on a model directory; it writes the new file `out`.

    Args:
        source: the directory.
        out: the file to write.
        dtype: of the matrices.
        tool: the converter.
        timeout_seconds: after which it is ended.
        pre: llama.cpp's name for the source's pre-tokenizer, for a byte-level BPE that the
            converter does not know; None tells it nothing.

    Raises:
        SourceError: it failed, took too long or too much memory, or could not be kept from
            the network.
    """
    # It makes copies of tensors, and some of its libraries are large.
    memory_bytes = _BASE_MEMORY_BYTES + 3 * open_weights(source).size_bytes
    with tempfile.TemporaryDirectory(prefix="casemate-convert-") as place:
        # Always of this name, which it writes into the file.
        staged = Path(place) / "model"
        staged.mkdir()
        for name in model_files(source):
            # Of a module's folder it has no use.
            if "/" not in name:
                (staged / name).symlink_to((source / name).resolve())
        words = [str(tool.script), str(staged), "--outfile", str(out.absolute())]
        if pre is not None:
            words = [str(_LAUNCHER), pre, *words]
        ended = run_program(
            [
                sys.executable,
                "-P",
                "-m",
                _MODULE,
                str(os.getpid()),
                str(memory_bytes),
                *words,
                "--outtype",
                dtype,
            ],
            seconds=timeout_seconds,
        )
    if ended.late:
        raise SourceError(f"{source}: the converter took longer than {timeout_seconds:.0f} seconds")
    if ended.status == NOT_ISOLATED:
        raise SourceError(
            f"{tool.script}: this system offers no way to keep it from the network (user "
            "namespaces, or pyseccomp of the runtime extra), so it was not run"
        )
    if ended.status or not out.is_file():
        raise SourceError(
            f"{source}: the converter could not convert it: it {ended.cause} "
            f"({ended.words or 'it said nothing'})"
        )


def read_converted(path: Path, source: TokenizerContent, specials: Specials) -> Vocabulary:
    """Return the vocabulary of a GGUF that was converted, as far as it is compared.

    Args:
        path: the GGUF, which the pre-parser has let pass.
        source: the tokenizer.json that it was made of.
        specials: what the source puts around a text, which the GGUF has to as well.
    """
    reader = GGUFReader(path)

    def value(name: str) -> object:
        field = reader.get_field(f"tokenizer.ggml.{name}")
        return None if field is None else field.contents()

    tokens, types, pre = value("tokens"), value("token_type"), value("pre")
    nfc = source.content.get("normalizer") == {"type": "NFC"}
    return Vocabulary(
        model=str(value("model")),
        pre=pre if isinstance(pre, str) else None,
        tokens=tuple(map(str, tokens)) if isinstance(tokens, list) else (),
        types=tuple(map(int, types)) if isinstance(types, list) else (),
        merges=(),
        scores=(),
        special=specials.ids,
        add_bos=specials.add_bos,
        add_eos=specials.add_eos,
        add_space_prefix=None,
        chat_template=None,
        nfc=nfc,
        notes=(NFC_NOTE,) if nfc else (),
    )
