"""From `casemate train` to the appliance's engine: the checkpoint's own greedy answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.gguf_export.export import export_gguf
from runtime.engine.llama import LlamaBackend, LlamaConfig
from runtime.engine.types import SamplingParams
from security.errors import BundleError
from tests.compiler.gguf_export.models import Llama, reference_logits
from tests.engine.harness import running
from tests.trainer.e2e.small import answer, small_decoder, typed, write_text

PROMPT = "the keeper sees the "
CONTEXT = 32
ENGINE = LlamaConfig(
    kv_tokens=256, context_tokens=CONTEXT, sequence_slots=2, step_tokens=64, max_rows=16, threads=1
)
KINDS = {
    "character": (),
    "bpe": ("tokenizer.kind=bpe", "tokenizer.vocabulary_size=300"),
}


@pytest.fixture(scope="module", params=sorted(KINDS))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    corpus = write_text(folder / "corpus.txt")
    answer(
        typed(
            "train", *small_decoder(corpus, *KINDS[request.param]), "-o", folder / "run", "--json"
        )
    )
    return folder / "run" / "final"


def loaded(checkpoint: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)


def test_the_engine_answers_as_the_checkpoint_does(checkpoint: Path, tmp_path: Path) -> None:
    made = export_gguf(checkpoint, tmp_path / "m.gguf", report=print)
    assert made.context_tokens == CONTEXT
    record = json.loads((checkpoint / "training.json").read_text())
    name = "model.safetensors"
    assert made.weights == {name: record["files"][name]["sha256"]}

    model, tokenizer = loaded(checkpoint)
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    count = CONTEXT - prompt.shape[1]
    ids = model.generate(prompt, max_new_tokens=count, do_sample=False)[0].tolist()
    wanted = tokenizer.decode(ids[prompt.shape[1] :], skip_special_tokens=True)
    with running(LlamaBackend(made.path, ENGINE)) as engine:
        stream = engine.generate(PROMPT, max_tokens=count, sampling=SamplingParams(temperature=0.0))
        stream.done()
    assert len(wanted) > 4
    assert stream.text == wanted


def test_its_logits_are_those_of_transformers(checkpoint: Path, tmp_path: Path) -> None:
    made = export_gguf(checkpoint, tmp_path / "m.gguf", dtype="f32", report=print)
    model, tokenizer = loaded(checkpoint)
    ids = tokenizer(PROMPT)["input_ids"]
    with Llama(made.path) as llama:
        assert llama.tokenize(PROMPT) == ids
        np.testing.assert_allclose(
            llama.logits(ids), reference_logits(model, ids), atol=1e-3, rtol=0
        )


def test_a_checkpoint_that_was_touched_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = checkpoint / "config.json"
    before = config.read_text()
    config.write_text(before.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    try:
        with pytest.raises(BundleError, match="not what training wrote"):
            export_gguf(checkpoint, tmp_path / "m.gguf", report=print)
    finally:
        config.write_text(before)


def test_a_recurrent_model_goes_another_way(tmp_path: Path) -> None:
    from compiler.errors import SourceError

    corpus = write_text(tmp_path / "corpus.txt")
    words = small_decoder(
        corpus, "model.family=recurrent", "run.steps=2", "checkpoint.every_steps=2"
    )
    answer(typed("train", *words, "-o", tmp_path / "run", "--json"))
    with pytest.raises(SourceError, match="no GGUF architecture; compile it to ONNX"):
        export_gguf(tmp_path / "run" / "final", tmp_path / "m.gguf", report=print)
