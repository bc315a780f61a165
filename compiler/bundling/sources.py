"""Recognise what kind of model a path holds, and plan its bundle.

| given | task |
| --- | --- |
| a `.gguf` file | generate |
| a `.onnx` file alone | tensor |
| a `.onnx` file with `tokenizer.json` and `config.json` beside it | embed or classify |
| a folder with BERT weights as safetensors | embed or classify; exported here |
| a folder with `model.onnx` or `onnx/model.onnx` and `tokenizer.json` | embed or classify |

The records of a checkpoint (`training.json`, `privacy.json`) come along only where the
model file is made here of the weights that they speak of. Pickled weights are refused by
name; nothing is ever unpickled.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compiler.bundling.copying import copy_file
from compiler.bundling.encoders import ONNX_FILES, plan_bert, plan_onnx_encoder
from compiler.bundling.inspect import inspect_gguf, inspect_onnx
from compiler.bundling.plan import Plan, Report
from compiler.encoder.bert import CONFIG_FILE, WEIGHTS_FILE
from compiler.errors import SourceError
from compiler.files import Settings
from security.bundle.claim import REPORT_NAME
from security.bundle.manifest import LLAMA_CPP, ONNXRUNTIME, SpecialTokens

_PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_WANTED = (
    "give a .gguf file, an .onnx file, or a folder with tokenizer.json, config.json and "
    "model.safetensors or model.onnx"
)


def plan_source(source: Path, task: str | None = None) -> Plan:
    """Plan the bundle of a source.

    Args:
        source: a model file or a model folder.
        task: what the user wants, or None to take what the source is for.

    Raises:
        SourceError: not a source, or not for that task.
        UnsafeModelError: a pre-parser refused the model file.
    """
    plan = _noted(_plan(source, task), source)
    if task is not None and plan.task != task:
        raise SourceError(f"{source}: is a model for the task {plan.task!r}, not {task!r}")
    return plan


def _noted(plan: Plan, source: Path) -> Plan:
    """Say so where a privacy report lies beside the source and does not come along."""
    folder = source if source.is_dir() else source.parent
    if plan.records is not None or not (folder / REPORT_NAME).is_file():
        return plan
    note = (
        f"{folder / REPORT_NAME} is not carried over: it speaks of weights that this model file "
        "was not made of here"
    )
    return replace(plan, note=note)


def _plan(source: Path, task: str | None) -> Plan:
    if source.is_dir():
        return _plan_folder(source)
    if not source.is_file():
        raise SourceError(f"{source}: there is no such file or folder; {_WANTED}")
    suffix = source.suffix.lower()
    if suffix in _PICKLED:
        raise SourceError(
            f"{source}: pickled weights can run code when they are read and are never opened; "
            "convert them to safetensors, GGUF or ONNX"
        )
    if suffix == ".gguf":
        return _plan_gguf(source)
    if suffix == ".onnx":
        beside = source.parent
        if task != "tensor" and (beside / "tokenizer.json").is_file():
            return plan_onnx_encoder(beside, source)
        return _plan_tensor(source)
    if suffix == ".safetensors":
        raise SourceError(f"{source}: give the folder it lies in, with its config and tokenizer")
    raise SourceError(f"{source}: is no model that is known here; {_WANTED}")


def _plan_gguf(source: Path) -> Plan:
    summary = inspect_gguf(source)

    def write(target: Path, report: Report) -> None:
        copy_file(source, target, report)

    template = summary.chat_template
    config = source.parent / "tokenizer_config.json"
    if template is None and config.is_file():
        template = template_of(Settings(config))
    return Plan(
        task="generate",
        backend=LLAMA_CPP,
        origin=source,
        write_model=write,
        context_tokens=summary.context_tokens,
        special_tokens=SpecialTokens(bos=summary.bos, eos=summary.eos),
        chat_template=template,
        license=summary.license,
    )


def _plan_tensor(source: Path) -> Plan:
    inspect_onnx(source)

    def write(target: Path, report: Report) -> None:
        copy_file(source, target, report)

    return Plan("tensor", ONNXRUNTIME, source, write, context_tokens=0)


def _plan_folder(folder: Path) -> Plan:
    if not (folder / CONFIG_FILE).is_file():
        raise SourceError(f"{folder}: has no {CONFIG_FILE}; {_WANTED}")
    model_type = Settings(folder / CONFIG_FILE).get("model_type", str, "")
    onnx = next((folder / name for name in ONNX_FILES if (folder / name).is_file()), None)
    has_weights = (folder / WEIGHTS_FILE).is_file()
    if onnx is not None and not (model_type == "bert" and has_weights):
        return plan_onnx_encoder(folder, onnx)
    return plan_bert(folder)


def template_of(settings: Settings) -> str | None:
    """Return the chat template of a tokenizer_config.json; the one called "default" of many."""
    value = settings.raw("chat_template")
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict)]
        value = next((t.get("template") for t in named if t.get("name") == "default"), None)
    return value if isinstance(value, str) else None
