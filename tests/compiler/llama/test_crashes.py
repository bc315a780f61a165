"""A quantizer that dies for real, in its process: named, nothing half-written; a search goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compiler.errors import ChildError
from compiler.llama.job import run_job
from compiler.llama.plan import MIXES, GgufPlan
from compiler.llama.quantize import quantize_gguf
from compiler.progress import Progress
from compiler.tune.candidate import Candidate
from compiler.tune.choose import Load
from compiler.tune.gguf_bench import GgufBench, GgufSource
from compiler.tune.promise import make_promise
from compiler.tune.search import SearchRequest, search
from security.bundle.manifest import LLAMA_CPP
from security.errors import UnsafeModelError
from tests.support.tiny_models import gguf_vocabulary

WIDTH, INNER, LAYERS = 256, 4096, 2
_SECONDS = 60.0


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six million weights in rows that take every format: work for some tenths of a second."""
    import gguf

    path = tmp_path_factory.mktemp("model") / "wide.gguf"
    tokens, scores, types = gguf_vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    draw = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
        values = np.ones(shape) if len(shape) == 1 else draw.standard_normal(shape)
        writer.add_tensor(f"{name}.weight", (values * scale).astype(np.float32))

    add("token_embd", len(tokens), WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            add(block + norm, WIDTH)
        for matrix in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(block + matrix, WIDTH, WIDTH)
        for matrix in ("ffn_gate", "ffn_up"):
            add(block + matrix, INNER, WIDTH)
        add(f"{block}ffn_down", WIDTH, INNER)
    add("output_norm", WIDTH)
    add("output", len(tokens), WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def child() -> int:
    """The one process that this one has started."""
    tasks = Path("/proc/self/task").glob("*/children")
    (found,) = [int(pid) for task in tasks for pid in task.read_text().split()]
    return found


def half_written(folder: Path) -> Path:
    """Wait for the first bytes of a file in the making."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        for path in folder.glob(".*.part"):
            if path.stat().st_size > 0:
                return path
        os.sched_yield()
    pytest.fail("the quantizer wrote nothing")


def once_writing(folder: Path, act: Callable[[], None]) -> tuple[Progress, list[Path]]:
    """A progress that does something once, while a file is half-written; and that file."""
    seen: list[Path] = []

    def told(label: str, fraction: float) -> None:
        del fraction
        if not seen and ("writing" in label or "quantizing" in label):
            seen.append(half_written(folder))
            act()

    return told, seen


def kill() -> None:
    os.kill(child(), signal.SIGKILL)


# Our writer with ggml's codecs, and llama.cpp's own quantizer.
WAYS = {"tensor by tensor": GgufPlan(default="Q4_K"), "llama.cpp": GgufPlan(default="Q4_K_M")}


@pytest.mark.parametrize("way", WAYS)
def test_a_quantizer_that_is_killed_is_named_and_leaves_nothing(
    way: str, wide: Path, tmp_path: Path
) -> None:
    told, seen = once_writing(tmp_path, kill)
    with pytest.raises(ChildError, match="SIGKILL"):
        quantize_gguf(wide, tmp_path / "out.gguf", WAYS[way], progress=told)
    assert seen
    assert list(tmp_path.iterdir()) == []
    # The compiler itself is well, and does it when it is let.
    made = quantize_gguf(wide, tmp_path / "out.gguf", WAYS[way])
    assert made.path.is_file()


def test_a_quantizer_whose_source_is_cut_dies_of_it_alone(wide: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(wide, tmp_path / "source.gguf"))
    told, seen = once_writing(tmp_path, lambda: os.truncate(source, 1 << 20))
    with pytest.raises(ChildError, match="SIGBUS"):
        quantize_gguf(source, tmp_path / "out.gguf", WAYS["llama.cpp"], progress=told)
    assert seen
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_an_assertion_that_fails_is_named(tmp_path: Path) -> None:
    import gguf

    # More layers than llama.cpp was built for; the pre-parser refuses such a file before.
    source = tmp_path / "deep.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(600)
    writer.add_tensor("token_embd.weight", np.zeros((4, WIDTH), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsafeModelError):
        quantize_gguf(source, tmp_path / "out.gguf", WAYS["llama.cpp"])
    how = {"ftype": MIXES["Q4_K_M"], "types": {}, "imatrix": None, "threads": 1}
    paths = {"source": str(source), "out": str(tmp_path / "out.gguf")}
    with pytest.raises(ChildError, match=r"SIGABRT.*GGML_ASSERT\(hparams\.n_layer_all"):
        run_job("mix", how | paths)


def text(seed: int) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(("the", "on", "in", "her", "tin", "then")) for _ in range(300))


class Whole:
    """A space of three formats for the whole file."""

    def seeds(self) -> list[Candidate]:
        return [
            Candidate(LLAMA_CPP, f"all {kind}", "whole", GgufPlan(default=kind).to_dict(), {})
            for kind in ("Q8_0", "Q4_K", "Q6_K")
        ]

    def refine(
        self, kept: list[Candidate], left: list[Candidate], progress: Progress
    ) -> list[Candidate]:
        return []

    def settings(self, best: Candidate) -> list[Candidate]:
        return []


def test_a_search_drops_the_candidate_whose_quantizer_died_and_goes_on(
    wide: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    how = GgufSource(wide, text(1), window=128, windows=1, seconds=0.02, batches=(1,), prefill=32)
    killed: list[str] = []

    def told(label: str, fraction: float) -> None:
        del fraction
        if "all Q4_K: writing" in label and not killed:
            half_written(folder / "candidates")
            kill()
            killed.append(label)

    wanted = SearchRequest(make_promise(None, max_kl=10.0), Load(1), folder, rounds=1)
    result = search(GgufBench(how, folder), Whole(), wanted, told)
    assert killed
    states = {one.candidate.label: one.dropped for one in result.trials}
    assert states.pop("all Q4_K") is not None
    assert set(states.values()) == {None}
    died = next(one for one in result.trials if one.candidate.label == "all Q4_K")
    assert "SIGKILL" in (died.dropped or "")
    assert died.sha256 is None
    timed = {one.candidate.label for one in result.trials if one.rounds}
    assert timed == {"as given", "all Q8_0", "all Q6_K"}
    assert not list((folder / "candidates").glob(".*"))
    # It may have been for want of memory: the same search tries it again, and only it.
    again = search(GgufBench(how, folder), Whole(), wanted, told)
    assert len(killed) == 1
    assert {one.dropped for one in again.trials} == {None}
