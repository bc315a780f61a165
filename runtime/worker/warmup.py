"""Everything Python would import on first use, used once: later nothing can be opened.

The standard library imports codecs and date parsing when they are first needed. Rather
than listing modules, the things that a worker does before and while it serves are done
once, on data made here.
"""

from __future__ import annotations

import importlib
from datetime import UTC, datetime

from casemate.pb.casemate.worker.v1 import worker_pb2
from security.bundle.manifest import (
    LLAMA_CPP,
    BundleLimits,
    BundleManifest,
    Variant,
    encode_manifest,
    parse_manifest,
)
from security.errors import CasemateError

# Codecs that a tokenizer, a template or a canonical encoding may ask for.
_CODECS = ("utf-8", "utf-8-sig", "utf-16-be", "utf-16-le", "latin-1", "ascii")

# numpy loads these when they are first named.
_NUMPY = ("numpy.random", "numpy.ctypeslib", "numpy.linalg", "numpy.exceptions", "numpy.dtypes")


def warm_up() -> None:
    """Parse a manifest, a wrong one, and a message; touch the codecs; load numpy whole."""
    for name in _NUMPY:
        importlib.import_module(name)
    for codec in _CODECS:
        "casemate".encode(codec).decode(codec)
    manifest = BundleManifest(
        name="warm-up",
        version="1.0.0",
        security_epoch=1,
        task="generate",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        variants=(Variant.of("default", LLAMA_CPP),),
        limits=BundleLimits(context_tokens=256, max_sequences=1, max_output_tokens=256),
    )
    data = encode_manifest(manifest)
    parse_manifest(data)
    try:
        parse_manifest(data[:-1])
    except CasemateError:
        worker_pb2.ToWorker.FromString(worker_pb2.ToWorker().SerializeToString())
