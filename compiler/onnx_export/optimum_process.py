"""The process in which torch, transformers and optimum run: one job, then the end.

    1. Load the stock class from a folder with config.json and safetensors: float32, no
       code of the folder, no network. Refuse weights that are missing or find no place.
    2. Trace each graph with optimum's configuration for the architecture, with stand-ins
       for its weights: they stay in their files and cost no copy.
    3. Make the graph ours (`tidy`), add what comes behind it.
    4. Write it, one weight after the other.

Started by `optimum_job`, never imported by the compiler.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from compiler.bundling.plan import Report
from compiler.errors import ExportError
from compiler.onnx_export.optimum_job import Job, Outcome
from compiler.onnx_export.tidy import add_before_output, add_finish, tidy
from compiler.onnx_file import Weight, write_model
from compiler.progress import Progress
from compiler.weights.reading import open_weights
from security.errors import CasemateError

_TOOLS: Final = ("torch", "transformers", "optimum", "optimum-onnx", "onnx")
_CACHED: Final = ("text-generation", "text2text-generation")
# Where more than the first output of the class is its answer: begin and end of a span.
_ANSWERS: Final = {"question-answering": 2}
_CLASSES: Final = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
}
# Weights of layers; a folder that has more of them than its config.json is cut short.
_LAYER: Final = re.compile(r"(^|\.)(layers?|h|blocks?)\.\d+\.")
# Tables that older versions stored and newer ones compute.
_COMPUTED: Final = (".inv_freq", ".attn.bias", ".masked_bias", ".position_ids")


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Do a job, in the child.

    Raises:
        ExportError, OSError: as `perform`.
    """
    return asdict(perform(Job.from_dict(request), lambda label: progress(label, 0.0)))


def perform(job: Job, report: Report) -> Outcome:
    """Do a job in this process, which keeps torch and what it loaded.

    Raises:
        ExportError: it cannot be done.
        OSError: a graph cannot be written.
    """
    return _Export(job, report).run()


class _Export:
    """One job."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._label = report

    def run(self) -> Outcome:
        """Do it."""
        self._label("loading the model")
        model = self._load()
        names = []
        for name, (part, config) in self._parts(model).items():
            self._label(f"tracing {name}")
            path = self._job.output / f"{name}.onnx"
            self._write(path, part, config)
            names.append(path.name)
        tools = {tool: version(tool) for tool in _TOOLS}
        return Outcome(tuple(sorted(names)), tools, _peak_bytes())

    # -- 1 -------------------------------------------------------------------------

    def _load(self) -> Any:
        import torch
        import transformers

        torch.set_num_threads(1)
        # A weight that is missing is refused, and one that is made up must not vary.
        torch.manual_seed(0)
        transformers.logging.set_verbosity_error()
        stock = getattr(transformers, _CLASSES[self._job.task])
        try:
            model, found = stock.from_pretrained(
                self._job.folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        # What a library raises over a stranger's configuration has no bound.
        except Exception as error:
            raise ExportError(
                "transformers cannot open the model: its config.json and weights do not fit, or "
                f"it is no architecture of transformers {version('transformers')} for "
                f"{self._job.task} ({_first_line(error)})"
            ) from error
        self._require_all(found)
        return model.eval()

    def _require_all(self, found: Mapping[str, Any]) -> None:
        # A pooler is of no use to a base model's states.
        spare = "pooler." if self._job.task == "feature-extraction" else None
        lacking = [n for n in sorted(found["missing_keys"]) if spare is None or spare not in n]
        if lacking:
            raise ExportError(f"the weights lack {lacking[0]}, which the model needs")
        for name in sorted(found["unexpected_keys"]):
            ours = name.startswith("task_layers.") or name.endswith(_COMPUTED)
            if _LAYER.search(name) and not ours:
                raise ExportError(
                    f"the weights hold {name[:200]!a}, and config.json has no place for it: the "
                    "files are not of one model, or a count of layers is too low"
                )

    # -- 2 -------------------------------------------------------------------------

    def _parts(self, model: Any) -> dict[str, tuple[Any, Any]]:
        """Return the graphs to make: name to a module and optimum's configuration."""
        from optimum.exporters.onnx.utils import (  # type: ignore[import-untyped]
            _get_submodels_and_onnx_configs,
        )
        from optimum.exporters.tasks import TasksManager  # type: ignore[import-untyped]

        # Registers what optimum knows of each architecture.
        import_module("optimum.exporters.onnx.model_configs")
        kind, task = model.config.model_type, self._job.task
        wanted = f"{task}-with-past" if self._job.cache and task in _CACHED else task
        try:
            known = TasksManager.get_supported_tasks_for_model_type(
                kind, "onnx", library_name="transformers"
            )
        except KeyError as error:
            others = TasksManager.get_supported_model_type_for_task(task, "onnx")
            raise ExportError(
                f"optimum {version('optimum-onnx')} cannot export the model_type {kind!r}; for "
                f"{task} it can export {', '.join(sorted(set(others)))}"
            ) from error
        if wanted not in known:
            raise ExportError(
                f"optimum {version('optimum-onnx')} cannot export a {kind!r} for {wanted}; "
                f"it can export it for {', '.join(sorted(known))}"
            )
        _, parts = _get_submodels_and_onnx_configs(
            model=model,
            task=wanted,
            monolith=not self._job.cache,
            custom_onnx_configs={},
            custom_architecture=False,
            _variant="default",
            library_name="transformers",
            float_dtype="fp32",
        )
        return dict(parts)

    def _trace(self, path: Path, part: Any, config: Any) -> tuple[list[str], list[str]]:
        """Write a graph without its weights; return its inputs and outputs."""
        from inspect import signature

        import torch

        part.config.return_dict = True
        for key, value in (config.values_override or {}).items():
            setattr(part.config, key, value)
        # All logits, not the last ones only.
        options = {n: 0 for n in ("logits_to_keep",) if n in signature(part.forward).parameters}
        example = config.rename_ambiguous_inputs(config.generate_dummy_inputs(framework="pt"))
        with (
            torch.no_grad(),
            _stand_ins(part),
            config.patch_model_for_export(part, model_kwargs=options),
        ):
            inputs, outputs = config.ordered_inputs(part), config.outputs
            torch.onnx.export(
                part,
                (example,),
                path,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={**inputs, **outputs},
                opset_version=self._job.opset,
                export_params=False,
                do_constant_folding=False,
                dynamo=False,
            )
        return list(inputs), list(outputs)

    # -- 3 and 4 -------------------------------------------------------------------

    def _write(self, path: Path, part: Any, config: Any) -> None:
        import onnx

        job = self._job
        bare = path.with_suffix(".bare")
        try:
            inputs, outputs = self._trace(bare, part, config)
        except CasemateError:
            raise
        # As above: a tracer over a stranger's model.
        except Exception as error:
            raise ExportError(f"the model cannot be traced: {_first_line(error)}") from error
        model = onnx.load(bare)
        bare.unlink()
        state = part.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        kept = outputs if job.cache else outputs[: _ANSWERS.get(job.task, 1)]
        tidied = tidy(model, inputs, kept, shapes, opset=job.opset, fold_positions=not job.cache)
        weights = {
            value: _weight(value, state[name], turned=turned)
            for value, (name, turned) in tidied.weights.items()
        }
        if job.added:
            weights |= add_before_output(tidied.model, open_weights(job.weights), job.added)
        if job.finish is not None:
            weights |= add_finish(tidied.model, open_weights(job.weights), job.finish)
        self._label(f"writing {path.name}")
        write_model(path, tidied.model, list(weights.values()), sync=True)


@contextmanager
def _stand_ins(part: Any) -> Iterator[None]:
    """Put tensors that take no memory in the place of the weights while a graph is traced.

    The tracer compares weights and copies them to infer shapes; it would read the whole
    file for nothing. Each stand-in is one number of its own, so that no two weights are
    taken for the same; a weight with several names has one stand-in.
    """
    import torch

    places = [
        (module, name, weight)
        for module in part.modules()
        for name, weight in module.named_parameters(recurse=False)
    ]
    made: dict[int, Any] = {}
    for module, name, weight in places:
        number = torch.tensor(1.0 + len(made) / 1024, dtype=weight.dtype)
        plain = torch.nn.Parameter(number.expand(weight.shape), requires_grad=False)
        setattr(module, name, made.setdefault(id(weight), plain))
    try:
        yield
    finally:
        for module, name, weight in places:
            setattr(module, name, weight)


def _weight(value: str, tensor: Any, *, turned: bool) -> Weight:
    import numpy as np

    array = tensor.detach().numpy()
    if turned:
        array = array.T

    def read() -> Any:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ExportError(f"the weight {value} holds values that are not finite numbers")
        return array

    return Weight(value, array.shape, read, array.dtype)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _peak_bytes() -> int:
    """Return the most memory that this process held (VmHWM; getrusage counts the parent's)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
