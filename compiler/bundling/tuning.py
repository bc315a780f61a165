"""A search on its own: the chosen file and its record in a folder, without a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compiler.bundling.assemble import partial_folder, require_free
from compiler.bundling.conversion import tools
from compiler.bundling.copying import copy_file, write_file
from compiler.bundling.forms import Form
from compiler.bundling.labelled import texts_of
from compiler.bundling.reference import make_reference
from compiler.bundling.sources import converter_facts, plan_source
from compiler.bundling.tuned import Tuning, require_searchable, tuned_form
from compiler.bundling.workfolder import work_folder
from compiler.errors import SearchError
from compiler.progress import Progress, part
from compiler.report.page import PAGE_NAME, write_page
from compiler.report.picture import write_picture
from compiler.report.record import RECORD_NAME, encode_record
from compiler.source.read import read_source, require_unchanged
from compiler.targets.target import Target
from compiler.tune.promise import Promise
from security.bundle.manifest import MODEL_FILES
from security.files import sync_tree

PICTURE_NAME: Final = "front.svg"
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755


@dataclass(frozen=True, slots=True)
class SearchFor:
    """What to search for; fields as those of a CompileRequest or its bundle, for one target."""

    source: Path
    output: Path
    target: Target
    promise: Promise
    tuning: Tuning
    calibration: Path | None = None
    labelled: Path | None = None
    converter: Path | None = None
    work: Path | None = None

    @property
    def work_path(self) -> Path:
        """Where the work folder is."""
        output = self.output.absolute()
        return self.work or output.parent / f".{output.name}.work"


def tune_source(wanted: SearchFor, progress: Progress) -> Form:
    """Search, and write what was found into the new folder `wanted.output`.

    Raises:
        PromiseError: no candidate keeps the promise; names the closest.
        UsageError: the source, the target or the texts are not usable for a search.
        OSError: the disk is full; the work folder stays.
    """
    require_free(wanted.output)
    progress("reading the model", 0.0)
    source = read_source(wanted.source)
    texts = texts_of(wanted.calibration, wanted.labelled)
    decides = {
        "source": dict(source.digests),
        "texts": texts.sha256,
        "task": None,
        "converter": converter_facts(source, wanted.converter),
        "tools": {**tools("llama.cpp"), **tools("onnxruntime")},
    }
    with work_folder(wanted.work_path, decides) as work:
        plan = plan_source(
            source, work, lambda label: progress(label, 0.0), converter=wanted.converter
        )
        require_searchable(plan, texts, wanted.tuning.load)
        reference = make_reference(plan, texts, work, part(progress, 0.0, 0.1))
        # What follows is made of the reference alone.
        require_unchanged(source)
        form = tuned_form(
            reference,
            wanted.target,
            work=work,
            tuning=wanted.tuning,
            promise=wanted.promise,
            texts=texts,
            progress=part(progress, 0.1, 0.98),
        )
        if form.record is None:
            raise SearchError(f"{wanted.source}: {form.note}")
        _write(form, MODEL_FILES[plan.backend], wanted.output, progress)
        return form


def _write(form: Form, model: str, output: Path, progress: Progress) -> None:
    """Write everything beside the output, then rename it there."""
    with partial_folder(output) as folder:
        measured = None if form.record is None else form.record.entry(form.record.chosen).sha256
        copy_file(form.path, folder / model, lambda label: progress(label, 0.98), sha256=measured)
        if form.record is not None:
            write_file(folder / RECORD_NAME, encode_record(form.record))
            write_page(folder / PAGE_NAME, form.record)
            write_picture(folder / PICTURE_NAME, form.record)
        for path in folder.iterdir():
            path.chmod(_FILE_MODE)
        folder.chmod(_FOLDER_MODE)
        sync_tree(folder)
        folder.rename(output)
