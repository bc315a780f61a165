"""Export a directory of weights to ONNX.

    1. Look at the directory (`source`): what it is, and that its files are those that
       its record names.
    2. Write the graphs into a folder beside the target: by optimum in a process of its
       own, or from the tensors, for the networks that only the trainer has.
    3. Check each graph with the appliance's own pre-parser.
    4. Pack configuration and tokenizer beside it, look at the source's digests once
       more, and give the folder its name.

Invariants: the target appears whole or not at all; the same source, options and versions
give the same bytes; nothing is downloaded, unpickled or run out of the directory.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from onnx import ModelProto

from casemate import __version__
from compiler.bundling.plan import Report
from compiler.errors import SourceError
from compiler.files import Settings
from compiler.onnx_export.convolution import convolution_graph
from compiler.onnx_export.embeddings import embeddings_graph
from compiler.onnx_export.graph import OPSET, OPSETS
from compiler.onnx_export.lstm import recurrent_graph
from compiler.onnx_export.optimum_job import Finish, Job, Outcome, run_job
from compiler.onnx_export.packing import pack
from compiler.onnx_export.result import OnnxExport
from compiler.onnx_export.source import (
    CONFIG_FILE,
    CONVOLUTION,
    RECURRENT,
    TRANSFORMER,
    WORD_EMBEDDINGS,
    ModelFolder,
    read_folder,
)
from compiler.onnx_file import MAX_FILE_BYTES, Weight, write_model
from compiler.weights.files import INDEX_FILE
from security.preparse import check_onnx

GRAPH_FILE: Final = "model.onnx"
_FLOAT: Final = 4  # bytes
_BUILDERS: Final[Mapping[str, Callable[[ModelFolder, int], tuple[ModelProto, list[Weight]]]]] = {
    RECURRENT: recurrent_graph,
    CONVOLUTION: convolution_graph,
    WORD_EMBEDDINGS: embeddings_graph,
}
# Keys of a configuration that lead to other files, or to code.
_LEADING_ELSEWHERE: Final = ("adapter", "attn_implementation", "experts_implementation", "_plan")
_DROPPED: Final = frozenset({"dtype", "torch_dtype", "name_or_path", "transformers_weights"})
_CACHED: Final = ("text-generation", "text2text-generation")


def export_onnx(
    source: Path,
    out: Path,
    *,
    cache: bool = False,
    opset: int = OPSET,
    report: Report = lambda _: None,
    run: Callable[[Job, Report], Outcome] = run_job,
) -> OnnxExport:
    """Export a checkpoint of the trainer, or a Hugging Face directory.

    Inputs are int64, axes are "batch" and "sequence" (and "decoder_sequence"):
    `input_ids`, `attention_mask` (1 for real tokens), `token_type_ids` where the
    architecture knows them, `decoder_input_ids`. The output is float32: `logits`,
    `last_hidden_state` or `embedding`, as the task says (`OnnxExport.task`); where a span
    answers a question, `start_logits` and `end_logits`.

    Args:
        source: the directory.
        out: the folder to make; it must not exist.
        cache: whether a decoder's graphs take and give keys and values, as optimum lays
            them out: model.onnx for a decoder; encoder_model.onnx, decoder_model.onnx
            and decoder_with_past_model.onnx for an encoder-decoder.
        opset: version of the standard operators; 18, 19 or 20.
        report: is told what is going on.
        run: has optimum do its part; by default in a process of its own.

    Raises:
        SourceError: the directory cannot be exported; nothing was written.
        UnsafeModelError: the pre-parser refuses a graph that was made.
        OSError: `out` cannot be written; nothing was left.
    """
    if opset not in OPSETS:
        raise SourceError(f"opset {opset} is not one of {', '.join(map(str, OPSETS))}")
    if os.path.lexists(out):
        raise SourceError(f"{out}: is there already; name a folder that is not")
    report("looking at the model")
    model = read_folder(source)
    if cache and model.task not in _CACHED:
        raise SourceError(
            f"{source}: is a model for {model.task}, which keeps no keys and values; export it "
            "without a cache"
        )
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        made = _make(model, work, cache=cache, opset=opset, report=report, run=run)
        (work / "made").rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made(out)


def _make(
    model: ModelFolder,
    work: Path,
    *,
    cache: bool,
    opset: int,
    report: Report,
    run: Callable[[Job, Report], Outcome],
) -> Callable[[Path], OnnxExport]:
    """Write everything into `work`/made; return what makes the result of the final place."""
    folder = work / "made"
    folder.mkdir(mode=0o755)
    task, outcome = model.task, None
    if model.stock is None:
        if cache:
            raise SourceError(f"{model.folder}: a {model.model_type} has no keys and values")
        report("building the graph")
        graph, weights = _BUILDERS[model.model_type](model, opset)
        report(f"writing {GRAPH_FILE}")
        write_model(folder / GRAPH_FILE, graph, weights, sync=True)
    else:
        job = _job(model, work, cache=cache, opset=opset)
        if job.finish is not None and job.finish.head is None:
            task = "sentence-similarity"
        outcome = run(job, report)
        for name in outcome.graphs:
            (job.output / name).rename(folder / name)
    report("checking the graph")
    graphs = sorted(path.name for path in folder.iterdir())
    for name in graphs:
        _check(folder / name)
    has_tokenizer = pack(model.folder, folder)
    model.require_unchanged()
    tools = {"casemate": __version__, "onnx": version("onnx")}

    def result(place: Path) -> OnnxExport:
        return OnnxExport(
            folder=place,
            graphs=tuple(place / name for name in graphs),
            task=f"{task}-with-past" if cache else task,
            model_type=model.model_type,
            labels=model.labels,
            has_tokenizer=has_tokenizer,
            opset=opset,
            ir_version=ir_version(opset),
            weights=model.digests,
            tools=tools if outcome is None else tools | dict(outcome.tools),
            peak_bytes=None if outcome is None else outcome.peak_bytes,
        )

    return result


def ir_version(opset: int) -> int:
    """Return the version of the file format that an opset came with."""
    from onnx import helper

    number: int = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    return number


def _job(model: ModelFolder, work: Path, *, cache: bool, opset: int) -> Job:
    """Stage the source for the exporter: a cleaned configuration, and links to the weights."""
    if model.weights.parameters * _FLOAT > MAX_FILE_BYTES:
        raise SourceError(
            f"{model.folder}: has {model.weights.parameters} weights, which in float32 are more "
            "than one ONNX file holds (2 GiB); take a smaller model, or a GGUF file for a decoder"
        )
    stage, output = work / "source", work / "output"
    stage.mkdir()
    output.mkdir()
    stock = _clean(dict(model.stock or {}))
    (stage / CONFIG_FILE).write_text(json.dumps(stock), encoding="utf-8")
    files = [file.path for file in model.weights.files]
    for path in (*files, *model.folder.glob(INDEX_FILE)):
        (stage / path.name).symlink_to(path.resolve())
    added = Settings(model.path).get("added_task_layers", int, 0)
    finish = _finish(model, added)
    task = "feature-extraction" if finish is not None else model.task
    return Job(
        stage,
        model.folder,
        output,
        task,
        cache,
        opset,
        0 if finish is not None else added,
        finish,
    )


def _finish(model: ModelFolder, added: int) -> Finish | None:
    """Return what comes behind a base model's states; None where its class says it all."""
    from compiler.bundling.encoders import read_layout

    classes = len(model.labels)
    if model.model_type == TRANSFORMER and model.config.get("pooling") in ("first", "mean"):
        pooling = "mean" if model.config["pooling"] == "mean" else "cls"
        if model.task == "text-classification":
            return Finish(pooling, added, "classifier", classes)
        # As the layout of sentence-transformers that such a network has without the layers.
        return Finish(pooling, added, normalize=True)
    if model.task == "text-classification" and "score.weight" in model.weights.tensors:
        # A decoder's class looks for the padding token's id; the mask says it better.
        return Finish("last", added, "score", classes)
    if model.task == "feature-extraction" and (model.folder / "modules.json").is_file():
        layout = read_layout(model.folder)
        return Finish(layout.pooling, normalize=layout.normalize)
    return None


def _clean(values: dict[str, Any]) -> dict[str, Any]:
    """Drop what leads elsewhere, at every depth; names of labels stay."""
    cleaned: dict[str, Any] = {}
    for key, value in values.items():
        leads = key.startswith("_") or key in _DROPPED
        if leads or any(part in key for part in _LEADING_ELSEWHERE):
            continue
        nested = isinstance(value, dict) and key not in ("id2label", "label2id")
        cleaned[key] = _clean(value) if nested else value
    return cleaned


def _check(path: Path) -> None:
    with path.open("rb") as file:
        check_onnx(file.fileno(), path.stat().st_size)
