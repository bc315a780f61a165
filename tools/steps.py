"""The steps of a demo: run in order, printed, timed, recorded in report.json.

The first step that does not do what it should ends the demo.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.site import CommandFailed
from casemate.client.errors import ClientError

Work = Callable[[], dict[str, Any]]


class DemoError(Exception):
    """A step did not do what it should."""


def expect(condition: bool, message: str) -> None:
    """Raise unless the condition holds."""
    if not condition:
        raise DemoError(message)


class Demo:
    """Runs steps, prints and records them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[dict[str, Any]] = []
        self.failed = False
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line of a step's result."""
        print(f"    {text}", flush=True)

    def step(self, title: str, work: Callable[[], dict[str, Any]]) -> None:
        """Run one step; its dictionary goes into the report."""
        print(f"\n{len(self.steps) + 1:2d}. {title}", flush=True)
        began = time.monotonic()
        result = work()
        seconds = round(time.monotonic() - began, 3)
        self.say(f"({seconds:.2f} s)")
        self.steps.append({"step": title, "ok": True, "seconds": seconds, **result})

    def write_report(self, failure: str | None) -> None:
        """Write report.json, whatever happened."""
        report = {
            "ok": failure is None,
            "failure": failure,
            "seconds": round(time.monotonic() - self._began, 1),
            "steps": self.steps,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")

    def walk(
        self, introduction: str, steps: Sequence[tuple[str, Work]], stop: Callable[[], object]
    ) -> bool:
        """Run all steps; return whether every one did what it should.

        Args:
            introduction: is printed first.
            steps: title and work.
            stop: is called at the end, whatever happened.
        """
        failure = None
        print(introduction)
        try:
            for title, work in steps:
                self.step(title, work)
        except (DemoError, CommandFailed, ClientError, RuntimeError, TimeoutError) as error:
            failure = str(error)
        finally:
            stop()
        self.write_report(failure)
        report = os.path.relpath(self.folder / "report.json")
        if failure is None:
            print(f"\nAll {len(self.steps)} steps did what they should. Report: {report}")
        else:
            print(f"\nFAILED: {failure}\nReport: {report}", file=sys.stderr)
        return failure is None
