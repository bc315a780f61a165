"""llama.cpp's own programs, built from the source that llama-cpp-python ships.

The peer of the serving benchmark: the same version of llama.cpp, the same flags
as the library that the appliance loads, plaintext HTTP. Nothing of it is kept in
the repository; each program is built once under build/ (build/llama-server). The
perplexity tool is the oracle of the quality figures.

    python -m benchmarks.llama_server        # build it (about five minutes)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.load import Stream

BUILD = Path("build")
PACKAGE = "llama-cpp-python==0.3.36"
_READY_TIMEOUT_SECONDS = 60
_POLL_SECONDS = 0.05


def binary(program: str = "llama-server") -> Path:
    """Return a program's path, building it if it is not there."""
    path = BUILD / program / "bin" / program
    if not path.is_file():
        _build(program)
    return path


def _build(program: str) -> None:
    print(f"Building {program} from the source distribution of", PACKAGE, flush=True)
    target = BUILD / program
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = Path(name)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary=:all:", "--dest", str(folder), PACKAGE),
            ],
            check=True,
        )
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(folder.glob("*/vendor/llama.cpp"))
        configure = ["cmake", "-S", str(source), "-B", str(target.resolve())]
        options = ["CMAKE_BUILD_TYPE=Release", "LLAMA_CURL=OFF", "LLAMA_OPENSSL=OFF"]
        options += ["LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF"]
        subprocess.run([*configure, *(f"-D{option}" for option in options)], check=True)
        jobs = str(os.cpu_count() or 2)
        subprocess.run(
            ["cmake", "--build", str(target), "--target", program, "-j", jobs], check=True
        )


def free_port() -> int:
    """Return a TCP port that was free a moment ago on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(gguf: Path, *, slots: int, context_tokens: int) -> Iterator[str]:
    """Run the server on a loopback port; yield its base URL."""
    port = free_port()
    server = binary().resolve()
    process = subprocess.Popen(
        [
            str(server),
            *("--model", str(gguf), "--host", "127.0.0.1", "--port", str(port)),
            *("--parallel", str(slots), "--ctx-size", str(context_tokens)),
            *("--threads", str(os.cpu_count() or 2), "--no-webui"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LD_LIBRARY_PATH": str(server.parent)},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _READY_TIMEOUT_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended with exit code {process.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health") as answer:
            if json.load(answer).get("status") == "ok":
                return
        time.sleep(_POLL_SECONDS)
    raise TimeoutError("llama-server did not become ready")


def stream(url: str, *, new_tokens: int) -> Stream:
    """Return a stream over llama-server's own completion endpoint, greedy."""
    parts = urlsplit(url)

    async def run(prompt: str) -> AsyncIterator[int]:
        body = json.dumps(
            {
                "prompt": prompt,
                "n_predict": new_tokens,
                "temperature": 0,
                "stream": True,
                "cache_prompt": False,
            }
        ).encode()
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = (
            f"POST /completion HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        try:
            async for line in reader:
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line[6:])
                if event.get("stop"):
                    yield int(event["tokens_predicted"])
                    return
                yield 0
        finally:
            writer.close()

    return run


if __name__ == "__main__":
    print(binary())
