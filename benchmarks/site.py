"""A whole appliance for a benchmark or the demo, made with the `casemate` command.

Everything runs as a user would run it: `casemate init`, `bundle create`, `sign`,
`install`, and `casemate serve` as a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.llama_server import free_port

_READY_TIMEOUT_SECONDS = 90
_STOP_TIMEOUT_SECONDS = 40
_POLL_SECONDS = 0.02


class CommandFailed(RuntimeError):
    """A `casemate` command ended with another code than 0."""

    def __init__(self, arguments: tuple[str, ...], code: int, stderr: str) -> None:
        super().__init__(f"casemate {' '.join(arguments)}: exit code {code}: {stderr.strip()}")
        self.stderr = stderr.strip()
        self.code = code


def casemate(*arguments: str, cwd: Path | None = None) -> str:
    """Run the command, return what it printed.

    Raises:
        CommandFailed: with what it printed on stderr.
    """
    result = subprocess.run(
        [sys.executable, "-m", "casemate.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    if result.returncode != 0:
        raise CommandFailed(arguments, result.returncode, result.stderr)
    return result.stdout


def casemate_json(*arguments: str, cwd: Path | None = None) -> dict[str, Any]:
    """Run the command with --json, return its result."""
    result: dict[str, Any] = json.loads(casemate(*arguments, "--json", cwd=cwd))
    return result


class Site:
    """One trust domain with one appliance, in a folder that is made anew."""

    def __init__(self, folder: Path, *, trust_domain: str = "demo.internal") -> None:
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.metrics_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        casemate("init", str(folder), "--trust-domain", trust_domain)
        configuration = folder / "casemate.toml"
        text = configuration.read_text()
        text = re.sub(r'(?m)^listen = ".*"', f'listen = "127.0.0.1:{self.port}"', text)
        text = re.sub(
            r'(?m)^metrics_listen = ".*"', f'metrics_listen = "127.0.0.1:{self.metrics_port}"', text
        )
        configuration.write_text(text)
        self._point(folder / "identities" / "operator")

    def _point(self, identity: Path) -> None:
        client = identity / "client.toml"
        text = re.sub(r'(?m)^target = ".*"', f'target = "{self.target}"', client.read_text())
        client.write_text(text)

    @property
    def target(self) -> str:
        """The address that clients call."""
        return f"127.0.0.1:{self.port}"

    def identity(self, name: str, role: str = "device") -> Path:
        """Issue an identity and return its folder."""
        casemate("identity", "issue", name, "--role", role, cwd=self.folder)
        folder = self.folder / "identities" / name
        self._point(folder)
        return folder

    def bundle(self, source: Path, name: str, version: str, *options: str) -> Path:
        """Create and sign a bundle of a model; return its folder."""
        bundle = self.folder / "bundles" / f"{name}-{version}"
        bundle.parent.mkdir(exist_ok=True)
        casemate(
            *("bundle", "create", str(source), "-o", str(bundle)),
            *("--name", name, "--version", version, *options),
        )
        casemate("sign", str(bundle), "--keys", str(self.folder / "signing"))
        return bundle

    def install(self, bundle: Path) -> dict[str, Any]:
        """Install a bundle, on the running appliance or before it starts."""
        return casemate_json("install", str(bundle.resolve()), cwd=self.folder)

    def start(self) -> float:
        """Start the appliance; return the seconds until it was ready."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        log = (self.folder / "serve.log").open("ab")
        began = time.monotonic()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "casemate.cli.main", "serve"),
                *("--config", "casemate.toml", "--ready-file", "ready"),
            ],
            cwd=self.folder,
            stdout=log,
            stderr=log,
        )
        log.close()
        while not ready.exists():
            if self._process.poll() is not None:
                raise RuntimeError(f"the appliance ended:\n{self.log_tail()}")
            if time.monotonic() - began > _READY_TIMEOUT_SECONDS:
                raise TimeoutError(f"the appliance did not become ready:\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - began

    @property
    def pid(self) -> int:
        """The front's process id."""
        if self._process is None:
            raise RuntimeError("the appliance is not running")
        return self._process.pid

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the appliance's log."""
        text = (self.folder / "serve.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> int:
        """Stop it as an operator would, with SIGTERM; return its exit code."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        return process.wait(timeout=_STOP_TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
