"""Golden requests: recorded once from a bundle, run before a version goes live.

A probes.jsonl line is one JSON object with id, kind, request, expect and tolerance
(docs/formats/bundle.md). Refused: unknown kinds and keys, too many probes, a file
that is too large. Invariants: a probe is greedy and deterministic as far as the
hardware allows, and its tolerance says how far it does not; a failure names the
probe and the measure, never the text.

`python -m runtime.probes record BUNDLE` writes probes.jsonl for an unsigned bundle.
"""

from runtime.probes.model import PROBES_FILE, Probe, parse_probes, probes_of
from runtime.probes.run import ProbeReport, run_probes

__all__ = ["PROBES_FILE", "Probe", "ProbeReport", "parse_probes", "probes_of", "run_probes"]
