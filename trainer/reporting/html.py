"""`report.html`: what a run was, in one file that opens offline.

Made from the run's folder alone (`run.json`, `metrics.jsonl`, `evaluation.json`,
`samples.json`), so it can be made again at any time. A part that cannot be drawn
becomes a remark in the page: a report never costs a run. Everything that came from
data or a model is text, never markup (see `markup`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from casemate.pages.markup import Child, Markup, element
from casemate.pages.page import page
from trainer.reporting import origins, sections
from trainer.reporting.files import write_whole
from trainer.reporting.run import RunRecord, read_run

REPORT_FILE = "report.html"

_log = logging.getLogger(__name__)

_PARTS: tuple[tuple[str, Callable[[RunRecord], Markup | None]], ...] = (
    ("header", sections.header),
    ("overview", sections.overview),
    ("curves", sections.curves),
    ("evaluation", sections.evaluation),
    ("samples", sections.samples),
    ("log", sections.log),
    ("recipe", origins.recipe),
    ("data", origins.data),
    ("environment", origins.environment),
)


def render_report(run_folder: Path) -> Path:
    """Write the report of a run into its folder and return the file.

    Raises:
        OSError: the file cannot be written; nothing else is raised.
    """
    run = read_run(run_folder)
    content: list[Child] = [_draw(name, make, run) for name, make in _PARTS]
    body = [element("main", *content, origins.footer(run))]
    path = run_folder / REPORT_FILE
    write_whole(path, page(f"{run.plan.name} – training report", body))
    return path


def _draw(name: str, make: Callable[[RunRecord], Markup | None], run: RunRecord) -> Markup | None:
    try:
        return make(run)
    except Exception as problem:
        # The record is a file that anything may have happened to. The kind of problem
        # only: its message could quote a sample.
        _log.warning("the report's part %r could not be drawn: %s", name, type(problem).__name__)
        return element("p", f"The part “{name}” could not be drawn.", class_="soft")
