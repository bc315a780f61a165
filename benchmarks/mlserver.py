"""MLServer, the peer of the encoder benchmark, in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from benchmarks.llama_server import free_port

BUILD = Path("build/mlserver")
_PACKAGES = ("mlserver==1.7.1", "onnxruntime==1.32.0", "tokenizers")
_READY_TIMEOUT_SECONDS = 60
_POLL_SECONDS = 0.1
MODEL = "encoder"


def install() -> Path | None:
    """Return MLServer's command, installing it first; None if it cannot be installed."""
    command = BUILD / "venv" / "bin" / "mlserver"
    if command.is_file():
        return command
    BUILD.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(BUILD / "venv")], check=True)
    pip = [str(BUILD / "venv" / "bin" / "pip"), "install", "--quiet", *_PACKAGES]
    return command if subprocess.run(pip, check=False).returncode == 0 else None


@contextlib.contextmanager
def serving(command: Path, model: Path) -> Iterator[str]:
    """Serve the encoder in `model` (model.onnx, tokenizer.json); yield the gRPC target."""
    folder = BUILD / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("mlserver_model.py"), folder / "mlserver_model.py")
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    implementation = {
        "name": MODEL,
        "implementation": "mlserver_model.Encoder",
        "parameters": {"uri": str(model.resolve())},
    }
    (folder / "model-settings.json").write_text(json.dumps(implementation))
    process = subprocess.Popen(
        [str(command.absolute()), "start", "."],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    target = f"127.0.0.1:{ports['grpc_port']}"
    try:
        _wait_until_ready(target, process)
        yield target
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(target: str, process: subprocess.Popen[bytes]) -> None:
    from casemate.pb.inference import inference_pb2, inference_pb2_grpc

    end = time.monotonic() + _READY_TIMEOUT_SECONDS
    with grpc.insecure_channel(target) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        while time.monotonic() < end:
            if process.poll() is not None:
                raise RuntimeError(f"MLServer ended with exit code {process.returncode}")
            with contextlib.suppress(grpc.RpcError):
                if stub.ModelReady(inference_pb2.ModelReadyRequest(name=MODEL)).ready:
                    return
            time.sleep(_POLL_SECONDS)
    raise TimeoutError("MLServer did not become ready")
