"""Which variant of a bundle runs here: the first whose requirement this processor meets.

The order is the bundle's, fastest first, and signed; nothing is measured here and nothing
is preferred (docs/formats/bundle.md, section 10). A level that this version does not know
is one that the processor does not have.

Read before a sandbox is closed: the processor is described under /proc and /sys.
"""

from __future__ import annotations

import functools

from casemate.cpu import LEVELS, CpuFeatures, detect
from runtime.errors import NoVariant
from security.bundle.manifest import BundleManifest, Variant


@functools.cache
def this_cpu() -> CpuFeatures:
    """Return the processor of this machine, as it was when first asked for."""
    return detect()


def choose_variant(manifest: BundleManifest, cpu: CpuFeatures) -> Variant:
    """Return the first variant that a processor can run.

    Raises:
        NoVariant: there is none; the message says what each needs and what is missing.
    """
    for variant in manifest.variants:
        if variant.cpu is None or _lacking(variant.cpu, cpu) is None:
            return variant
    needs = "; ".join(
        f"{variant.id} needs {variant.cpu} ({_lacking(variant.cpu or '', cpu)})"
        for variant in manifest.variants
    )
    raise NoVariant(
        f"{manifest.name} {manifest.version} has no variant for this processor: {needs}; "
        "compile it for this target too"
    )


def _lacking(level: str, cpu: CpuFeatures) -> str | None:
    """Return what keeps a processor from a level, in words; None where nothing does."""
    if level not in LEVELS:
        return "a level that this version does not know"
    missing = cpu.missing(level)
    return f"without {', '.join(missing)}" if missing else None
