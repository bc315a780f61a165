"""The Open Inference Protocol's calls about server and models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from casemate import __version__
from casemate.pb.inference import inference_pb2
from runtime.front.call import Call
from runtime.front.services.infer import TEXT_INPUT
from runtime.front.services.infer_answer import DescribesTensors
from runtime.front.services.work import served_of
from runtime.front.spec import Handler
from runtime.models.catalog import ModelCatalog
from runtime.models.errors import CatalogError

Tensor = inference_pb2.ModelMetadataResponse.TensorMetadata


class ServerLive(Handler):
    """Whether the process answers. It just did."""

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer."""
        yield inference_pb2.ServerLiveResponse(live=True)


class ServerReady(Handler):
    """Whether everything that should be served is."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer."""
        yield inference_pb2.ServerReadyResponse(ready=self._ready())


class ServerMetadata(Handler):
    """Name and version of the appliance."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer."""
        yield inference_pb2.ServerMetadataResponse(name=self._name, version=__version__)


class ModelReady(Handler):
    """Whether a model answers now. Asking must not depend on a version being there."""

    leases = False

    def __init__(self, catalog: ModelCatalog) -> None:
        self._catalog = catalog

    def model(self, request: inference_pb2.ModelReadyRequest) -> tuple[str, str]:
        """Return the model that is named."""
        return request.name, request.version

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer; an unknown model is simply not ready."""
        try:
            served = self._catalog.resolve(call.request.name, call.request.version)
            ready = served.host.ready
        except CatalogError:
            ready = False
        yield inference_pb2.ModelReadyResponse(ready=ready)


class ModelMetadata(Handler):
    """Inputs and outputs of a model."""

    def model(self, request: inference_pb2.ModelMetadataRequest) -> tuple[str, str]:
        """Return the model that is named."""
        return request.name, request.version

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer."""
        served = served_of(call)
        manifest = served.manifest
        inputs, outputs = [Tensor(name=TEXT_INPUT, datatype="BYTES", shape=[-1])], []
        if manifest.task == "generate":
            outputs = [Tensor(name="text_output", datatype="BYTES", shape=[-1])]
        elif manifest.task == "embed":
            dim = manifest.encoder.dim if manifest.encoder else -1
            outputs = [Tensor(name="embedding", datatype="FP32", shape=[-1, dim])]
        elif manifest.task == "classify":
            labels = len(manifest.encoder.labels) if manifest.encoder else -1
            outputs = [
                Tensor(name="label", datatype="BYTES", shape=[-1]),
                Tensor(name="score", datatype="FP32", shape=[-1, labels]),
            ]
        else:
            inputs, outputs = _graph(served.host)
        yield inference_pb2.ModelMetadataResponse(
            name=served.name,
            versions=[served.version],
            platform=f"casemate_{manifest.task}",
            inputs=inputs,
            outputs=outputs,
        )


def _graph(host: object) -> tuple[list[Tensor], list[Tensor]]:
    """Return what the worker said of its graph's tensors."""
    ready = host.ready_message if isinstance(host, DescribesTensors) else None
    if ready is None:
        return [], []

    def tensors(specs: Any) -> list[Tensor]:
        return [Tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in specs]

    return tensors(ready.inputs), tensors(ready.outputs)
