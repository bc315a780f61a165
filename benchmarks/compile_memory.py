"""Peak memory of `casemate compile`, over all its processes, against the size of its source.

    python -m benchmarks.compile_memory [--rounds 3] [--only NAME ...]

Sources: MiniLM as a folder of weights (91 MB), to float32 and three quantized forms; a
decoder of Llama's shape with random weights in float16 (257 MB), to GGUF in float16 and in
two quantized formats; the shipped Gemma GGUF (253 MB), as it is and quantized anew.

While the command runs, the proportional set size (PSS: what processes share is counted
once) of it and of everything that it started is added up, some fifty times a second; the
peak is the largest sum. It includes the pages of mapped files. The constant share is what the
same command needs for a model of the same kind with next to no weights: interpreters,
libraries, tokenizer. What is held to the promise of 2.5 times is the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks import report

MODELS: Final = Path(__file__).resolve().parents[1] / "build" / "models"
MINILM, GEMMA = MODELS / "all-MiniLM-L6-v2", MODELS / "gemma-3-270m-q4_k_m.gguf"
PROMISED: Final = 2.5
SAMPLE_SECONDS: Final = 0.02
_MEBIBYTE: Final = 1 << 20
_LAYERS, _WIDTH, _INNER = 10, 1024, 2816


@dataclass(frozen=True, slots=True)
class Case:
    """One command: a name, the source's kind, and the format."""

    name: str
    source: str
    format: str


CASES: Final = (
    Case("encoder, float32", "encoder", "float32"),
    Case("encoder, dynamic int8", "encoder", "int8"),
    Case("encoder, static int8", "encoder", "int8-static"),
    Case("encoder, 4-bit blocks", "encoder", "int4-blocks"),
    Case("decoder folder, f16", "decoder", "keep"),
    Case("decoder folder, q8_0", "decoder", "q8_0"),
    Case("decoder folder, q4_k_m", "decoder", "q4_k_m"),
    Case("gguf, as it is", "gguf", "keep"),
    Case("gguf, q8_0", "gguf", "q8_0"),
    Case("gguf, iq4_nl", "gguf", "iq4_nl"),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a case needed; sizes in MiB.

    Attributes:
        case: its name.
        source_mib: files of the source.
        peak_mib: of all processes.
        constant_mib: the same for a tiny model.
        ratio: (peak - constant) / (source - tiny model).
        plain_ratio: peak / source.
        kept: whether the ratio is within the promise.
    """

    case: str
    source_mib: float
    peak_mib: float
    constant_mib: float
    ratio: float
    plain_ratio: float
    kept: bool


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(n) for task in tasks for n in (task / "children").read_text().split()]
    except (OSError, ValueError):
        return
    for child in children:
        yield from _descendants(child)


def _pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 of one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def peak_bytes(command: list[str]) -> int:
    """Run a command to its end; return the largest sum over its processes.

    Raises:
        RuntimeError: it failed.
    """
    done, peak = threading.Event(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:

        def watch() -> None:
            nonlocal peak
            while not done.wait(SAMPLE_SECONDS):
                peak = max(peak, sum(map(_pss_bytes, _descendants(process.pid))))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, errors = process.communicate()
        done.set()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {errors.decode()[-2000:]}")
    return peak


def compiled_bytes(source: Path, form: str, work: Path) -> int:
    """Compile a source into a format; return the peak of its memory."""
    out = work / "bundle"
    # What a tiny model answers keeps no promise; here it need not.
    bounds = ["--min-spearman", "-1"] if (source / "modules.json").is_file() else []
    words = ["compile", str(source), "-o", str(out), "--format", form, "--no-probes", *bounds]
    try:
        return peak_bytes([sys.executable, "-m", "casemate.cli.main", *words])
    finally:
        shutil.rmtree(out, ignore_errors=True)


def tiny_encoder(folder: Path) -> None:
    """MiniLM's tokenizer with next to no weights behind it."""
    shutil.copytree(MINILM, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    width, layers = 72, 1
    sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(
        json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": width})
    )
    random = np.random.default_rng(0)
    tensors = {}
    for name, tensor in load_file(MINILM / "model.safetensors").items():
        if ".layer." in name and ".layer.0." not in name:
            continue
        keep = {config["hidden_size"]: width, config["intermediate_size"]: width}
        shape = [keep.get(side, side) for side in tensor.shape]
        if tensor.dtype == np.float32:
            tensors[name] = random.standard_normal(shape).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")


def decoder(folder: Path, layers: int, width: int, inner: int) -> None:
    """A folder of Llama's shape with random weights in float16, tied, and a small tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the keeper lights the lamp of the lighthouse"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()
    stated = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "bos_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(1)

    def some(*shape: int) -> Any:
        return (random.standard_normal(shape, np.float32) * 0.02).astype(np.float16)

    tensors = {
        "model.embed_tokens.weight": some(vocabulary, width),
        "model.norm.weight": some(width),
    }
    for layer in range(layers):
        place = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{place}self_attn.{name}.weight"] = some(width, width)
        for name, shape in {
            "gate_proj": (inner, width),
            "up_proj": (inner, width),
            "down_proj": (width, inner),
        }.items():
            tensors[f"{place}mlp.{name}.weight"] = some(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{place}{name}.weight"] = some(width)
    save_file(tensors, folder / "model.safetensors")


def size_bytes(source: Path) -> int:
    """Return the bytes of a file, or of a folder's files."""
    files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    return sum(path.stat().st_size for path in files)


def sources(work: Path) -> dict[str, tuple[Path, Path]]:
    """Make what is compiled: by kind, the model and its tiny twin."""
    from compiler.gguf_export.export import export_gguf

    tiny_encoder(work / "tiny-encoder")
    decoder(work / "decoder", _LAYERS, _WIDTH, _INNER)
    decoder(work / "tiny-decoder", 1, 64, 64)
    export_gguf(work / "tiny-decoder", work / "tiny.gguf", report=lambda _: None)
    return {
        "encoder": (MINILM, work / "tiny-encoder"),
        "decoder": (work / "decoder", work / "tiny-decoder"),
        "gguf": (GEMMA, work / "tiny.gguf"),
    }


def measure(case: Case, made: dict[str, tuple[Path, Path]], work: Path, rounds: int) -> Figures:
    """Return the figures of a case: the largest of all rounds."""
    source, tiny = made[case.source]
    # A tiny model's matrices have no whole blocks; what it is written as weighs nothing.
    form = case.format if case.source == "encoder" else "keep"

    def peak(measured: Callable[[], int]) -> float:
        # A sample may miss a peak, and cannot see one that is not there.
        return max(measured() for _ in range(rounds))

    whole = peak(lambda: compiled_bytes(source, case.format, work))
    constant = peak(lambda: compiled_bytes(tiny, form, work))
    size = size_bytes(source)
    ratio = (whole - constant) / (size - size_bytes(tiny))
    return Figures(
        case=case.name,
        source_mib=round(size / _MEBIBYTE, 1),
        peak_mib=round(whole / _MEBIBYTE, 1),
        constant_mib=round(constant / _MEBIBYTE, 1),
        ratio=round(ratio, 2),
        plain_ratio=round(whole / size, 2),
        kept=ratio <= PROMISED,
    )


def main() -> None:
    """Measure every case, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="cases whose name has one")
    asked = parser.parse_args()
    cases = [c for c in CASES if not asked.only or any(word in c.name for word in asked.only)]
    # Of one thread, as a library's buffers grow with them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    print(f"{'case':<24}{'source':>9}{'peak':>9}{'constant':>10}{'ratio':>7}{'plain':>7}  MiB")
    with tempfile.TemporaryDirectory(prefix="casemate-memory-") as name:
        made = sources(Path(name))
        for case in cases:
            row = measure(case, made, Path(name), asked.rounds)
            rows.append(asdict(row))
            print(
                f"{row.case:<24}{row.source_mib:>9}{row.peak_mib:>9}{row.constant_mib:>10}"
                f"{row.ratio:>7}{row.plain_ratio:>7}{'' if row.kept else '  over'}",
                flush=True,
            )
    if len(cases) == len(CASES):
        packages = ("onnx", "onnxruntime", "llama-cpp-python", "gguf", "numpy")
        report.write("compile_memory", {"promised": PROMISED, "cases": rows}, packages)


if __name__ == "__main__":
    main()
