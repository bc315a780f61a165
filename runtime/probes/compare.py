"""Is an answer close enough to the recorded one? Pure functions, no text in the reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from runtime.probes.model import Probe
from runtime.probes.outcome import Outcome


def compare(probe: Probe, outcome: Outcome) -> str | None:
    """Return why an answer does not pass, or None when it does."""
    try:
        return _COMPARERS[probe.kind](probe.expect, probe.tolerance, outcome)
    except (KeyError, TypeError, ValueError):
        return f"its expectation is no {probe.kind} expectation"


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors; 0 when either has no length."""
    norm = math.hypot(*left) * math.hypot(*right)
    return sum(a * b for a, b in zip(left, right, strict=True)) / norm if norm else 0.0


def _generate(expect: Mapping[str, Any], tolerance: Mapping[str, Any], got: Outcome) -> str | None:
    """The first characters are equal, and the recorded text is as likely as it was."""
    expected = str(expect["text"])
    needed = min(int(tolerance["prefix_chars"]), len(expected))
    same = _common_prefix(expected, got.text)
    if same < needed:
        return f"the text differs after {same} characters; the first {needed} must be equal"
    if "logprob" in expect:
        return _near("log-probability", [expect["logprob"]], got.logprobs, tolerance["logprob"])
    return None


def _score(expect: Mapping[str, Any], tolerance: Mapping[str, Any], got: Outcome) -> str | None:
    return _near("log-probability", expect["logprobs"], got.logprobs, tolerance["logprob"])


def _embed(expect: Mapping[str, Any], tolerance: Mapping[str, Any], got: Outcome) -> str | None:
    if len(expect["embeddings"]) != len(got.vectors):
        return f"{len(got.vectors)} embeddings, not {len(expect['embeddings'])}"
    for wanted, vector in zip(expect["embeddings"], got.vectors, strict=True):
        if len(wanted) != len(vector):
            return f"{len(vector)} dimensions, not {len(wanted)}"
        similarity = cosine(wanted, vector)
        if not similarity >= tolerance["cosine"]:
            return f"cosine similarity {similarity:.4f}, below {tolerance['cosine']}"
    return None


def _classify(expect: Mapping[str, Any], tolerance: Mapping[str, Any], got: Outcome) -> str | None:
    if len(expect["labels"]) != len(got.labels) or not all(got.labels):
        return f"{len(got.labels)} classifications, not {len(expect['labels'])}"
    tops = [ranked[0] for ranked in got.labels]
    for number, (label, (top, _)) in enumerate(zip(expect["labels"], tops, strict=True)):
        if label != top:
            return f"input {number} has another top label"
    return _near("score", expect["scores"], [score for _, score in tops], tolerance["score"])


def _tensor(expect: Mapping[str, Any], tolerance: Mapping[str, Any], got: Outcome) -> str | None:
    for item in expect["outputs"]:
        output = got.tensors.get(item["name"])
        if output is None:
            return f"output {item['name']} is missing"
        if list(output.shape) != item["shape"] or output.datatype != item["datatype"]:
            return f"output {item['name']} has another shape or data type"
        for wanted, value in zip(item["data"], output.data, strict=True):
            allowed = tolerance["absolute"] + tolerance["relative"] * abs(wanted)
            if not abs(value - wanted) <= allowed:
                return f"output {item['name']} is off by {abs(value - wanted):.3g}"
    return None


def _near(
    what: str, expected: Sequence[float], got: Sequence[float], tolerance: float
) -> str | None:
    """Compare numbers; written so that NaN fails."""
    if len(expected) != len(got):
        return f"{len(got)} values of {what}, not {len(expected)}"
    for wanted, value in zip(expected, got, strict=True):
        if not abs(value - wanted) <= tolerance:
            return f"{what} {value:.4f}, not within {tolerance} of {wanted:.4f}"
    return None


def _common_prefix(left: str, right: str) -> int:
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))


_COMPARERS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], Outcome], str | None]]
_COMPARERS = MappingProxyType(
    {
        "generate": _generate,
        "score": _score,
        "embed": _embed,
        "classify": _classify,
        "tensor": _tensor,
    }
)
