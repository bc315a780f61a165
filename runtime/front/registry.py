"""Every method the appliance serves, built from the proto descriptors.

The names, kinds and message classes come from the descriptors; the handlers from
one table. A method in the descriptors without a handler, or a handler without a
method, is an error when the appliance starts, so none can be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from casemate.pb.casemate.v1 import audit_pb2, model_pb2, text_pb2
from casemate.pb.inference import inference_pb2
from runtime.config import LimitsConfig
from runtime.front.services import audit, generate, health, infer, models, oip, reflection, texts
from runtime.front.spec import Handler, Kind, MethodSpec
from runtime.models.catalog import ModelCatalog
from security.audit.log import AuditLog
from security.errors import UsageError

FILES = (
    text_pb2.DESCRIPTOR,
    model_pb2.DESCRIPTOR,
    audit_pb2.DESCRIPTOR,
    inference_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
# The newer name of the same service; clients try it first.
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

_PROBE = "a probe asks every second, and the answer holds nothing but up or down"
# Methods whose successful calls leave no entry, and why. Refusals are on record always.
UNAUDITED: Mapping[str, str] = {
    "grpc.health.v1.Health/Check": _PROBE,
    "grpc.health.v1.Health/List": _PROBE,
    "grpc.health.v1.Health/Watch": _PROBE,
    "inference.GRPCInferenceService/ServerLive": _PROBE,
    "inference.GRPCInferenceService/ServerReady": _PROBE,
    "inference.GRPCInferenceService/ModelReady": _PROBE,
}
OPERATIONS = frozenset(
    {
        "casemate.v1.ModelService/InstallBundle",
        "casemate.v1.ModelService/PromoteVersion",
        "casemate.v1.ModelService/RollbackModel",
    }
)
_MAY_WAIT = frozenset({"grpc.health.v1.Health/Watch"})


@dataclass(frozen=True, slots=True)
class Services:
    """What the handlers are made from."""

    name: str
    limits: LimitsConfig
    catalog: ModelCatalog
    log: AuditLog
    ready: Callable[[], bool]


def served_services() -> tuple[str, ...]:
    """Return the full names of all services, in order."""
    names = [s.full_name for file in FILES for s in file.services_by_name.values()]
    return (*names, _REFLECTION_V1)


def _handlers(parts: Services) -> dict[str, Handler]:
    limits, catalog, log = parts.limits, parts.catalog, parts.log
    text, model, oip_name = (
        "casemate.v1.TextService/",
        "casemate.v1.ModelService/",
        ("inference.GRPCInferenceService/"),
    )
    audits, probe = "casemate.v1.AuditService/", "grpc.health.v1.Health/"
    names = served_services()
    reflecting = reflection.ServerReflection(served_services, reflection.private_pool(FILES))
    return {
        text + "Generate": generate.Generate(limits),
        text + "Score": texts.Score(limits),
        text + "Embed": texts.Embed(limits),
        text + "Classify": texts.Classify(limits),
        model + "ListModels": models.ListModels(catalog),
        model + "DescribeModel": models.DescribeModel(catalog),
        model + "InstallBundle": models.InstallBundle(catalog),
        model + "PromoteVersion": models.PromoteVersion(catalog),
        model + "RollbackModel": models.RollbackModel(catalog),
        audits + "GetCheckpoint": audit.GetCheckpoint(log),
        audits + "GetInclusionProof": audit.GetInclusionProof(log),
        audits + "GetConsistencyProof": audit.GetConsistencyProof(log),
        audits + "GetTile": audit.GetTile(log),
        audits + "GetEntries": audit.GetEntries(log),
        oip_name + "ServerLive": oip.ServerLive(),
        oip_name + "ServerReady": oip.ServerReady(parts.ready),
        oip_name + "ServerMetadata": oip.ServerMetadata(parts.name),
        oip_name + "ModelReady": oip.ModelReady(catalog),
        oip_name + "ModelMetadata": oip.ModelMetadata(),
        oip_name + "ModelInfer": infer.ModelInfer(limits),
        probe + "Check": health.Check(names, parts.ready),
        probe + "List": health.List(names, parts.ready),
        probe + "Watch": health.Watch(names, parts.ready),
        _REFLECTION + "/ServerReflectionInfo": reflecting,
        _REFLECTION_V1 + "/ServerReflectionInfo": reflecting,
    }


def _kind(method: MethodDescriptor) -> Kind:
    if method.client_streaming:
        return Kind.BIDI_STREAM
    return Kind.SERVER_STREAM if method.server_streaming else Kind.UNARY


def build_registry(parts: Services) -> dict[str, MethodSpec]:
    """Return the specification of every method, by "package.Service/Method".

    Raises:
        UsageError: a method has no handler, or a handler no method.
    """
    handlers = _handlers(parts)
    specs: dict[str, MethodSpec] = {}

    def add(service: ServiceDescriptor, service_name: str) -> None:
        for method in service.methods:
            name = f"{service_name}/{method.name}"
            if name not in handlers:
                raise UsageError(f"{name} has no handler")
            specs[name] = MethodSpec(
                name=name,
                kind=_kind(method),
                request=GetMessageClass(method.input_type),
                response=GetMessageClass(method.output_type),
                handler=handlers[name],
                operation=name in OPERATIONS,
                unaudited_because=UNAUDITED.get(name, ""),
                may_wait=name in _MAY_WAIT,
            )

    for file in FILES:
        for service in file.services_by_name.values():
            add(service, service.full_name)
    add(reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"], _REFLECTION_V1)
    unknown = (set(handlers) | set(UNAUDITED) | OPERATIONS) - set(specs)
    if unknown:
        raise UsageError(f"{sorted(unknown)[0]} is no method of any service")
    return specs
