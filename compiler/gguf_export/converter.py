"""llama.cpp's own converter, for the architectures that are not exported here.

It is a program of somebody else's that reads files of somebody else's, so it runs as a
process of its own that cannot reach a network, with bounded memory and time, and sees a
folder with nothing but the weights, configuration and tokenizer in it: no code of the model
to run, no pickle to load, and a name that is always the same. What it writes is
pre-parsed and compared like anything else.

It is used only if the user has it: nothing is downloaded. What is recorded of it is enough
to get the same one again: the digest of its files, and its version where it states one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gguf import GGUFReader

from compiler.errors import SourceError
from compiler.gguf_export.bytelevel import NFC_NOTE
from compiler.gguf_export.convert_process import NOT_ISOLATED
from compiler.gguf_export.pieces import TokenizerContent
from compiler.gguf_export.vocabulary import Vocabulary
from compiler.gguf_export.weights import weight_files

SCRIPT_NAME: Final = "convert_hf_to_gguf.py"
ENVIRONMENT_NAME: Final = "CASEMATE_LLAMA_CPP"
TIMEOUT_SECONDS: Final = 3600
_MODULE: Final = "compiler.gguf_export.convert_process"
_BASE_MEMORY_BYTES: Final = 4 << 30
_GIT_SECONDS: Final = 10
_MAX_MESSAGE_CHARS: Final = 1000
# What a converter may see of a model: no code (.py) and nothing that is unpickled.
_SEEN: Final = (".json", ".safetensors", ".model", ".txt", ".jinja")


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
    """Return the digest of the converter's files, and what it says of itself."""
    folder = script.parent
    digest = hashlib.sha256()
    parts = [p for name in ("conversion", "gguf-py/gguf") for p in (folder / name).rglob("*.py")]
    for path in [script, *sorted(parts)]:
        digest.update(hashlib.sha256(path.read_bytes()).hexdigest().encode())
        digest.update(f"  {path.relative_to(folder)}\n".encode())
    found = {"converter.sha256": digest.hexdigest()}
    project = folder / "gguf-py" / "pyproject.toml"
    if project.is_file():
        stated = tomllib.loads(project.read_text()).get("tool", {}).get("poetry", {})
        found["converter.gguf"] = str(stated.get("version", "unknown"))
    described = _described(folder)
    if described:
        found["converter.git"] = described
    return found


def _described(folder: Path) -> str:
    """Return git's name for the checkout, or "" where it is none."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--tags"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()[:200] if result.returncode == 0 else ""


def convert(
    source: Path, out: Path, dtype: str, tool: Converter, timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Run a converter on a model directory; it writes the new file `out`.

    Raises:
        SourceError: it failed, took too long or too much memory, or could not be kept from
            the network.
    """
    size = sum(path.stat().st_size for path in weight_files(source))
    # It makes copies of tensors, and some of its libraries are large.
    memory_bytes = _BASE_MEMORY_BYTES + 3 * size
    with tempfile.TemporaryDirectory(prefix="casemate-convert-") as place:
        staged, home = Path(place) / "model", Path(place) / "home"
        staged.mkdir()
        home.mkdir()
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix in _SEEN:
                (staged / path.name).symlink_to(path.resolve())
        words = [str(tool.script), str(staged), "--outfile", str(out.resolve()), "--outtype", dtype]
        try:
            result = subprocess.run(
                [sys.executable, "-m", _MODULE, str(memory_bytes), *words],
                env=_environment(home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise SourceError(
                f"{source}: the converter took longer than {timeout_seconds:.0f} seconds"
            ) from error
    if result.returncode == NOT_ISOLATED:
        raise SourceError(
            f"{tool.script}: this system offers no way to keep it from the network (user "
            "namespaces, or pyseccomp of the runtime extra), so it was not run"
        )
    if result.returncode or not out.is_file():
        raise SourceError(
            f"{source}: the converter could not convert it: {_last_line(result.stderr)}"
        )


def _environment(home: Path) -> dict[str, str]:
    """Return what the converter's process gets to know: little, and that it is offline."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _last_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    return (lines[-1] if lines else "it ended without a word")[:_MAX_MESSAGE_CHARS]


def read_converted(path: Path, source: TokenizerContent) -> Vocabulary:
    """Return the vocabulary of a GGUF that was converted, as far as it is compared.

    Args:
        path: the GGUF, which the pre-parser has let pass.
        source: the tokenizer.json that it was made of.
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
        special={},
        add_bos=False,
        add_eos=False,
        add_space_prefix=None,
        chat_template=None,
        nfc=nfc,
        notes=(NFC_NOTE,) if nfc else (),
    )
