"""Which tensor of a GGUF file gets which format, decided before a byte is written.

A plan speaks of tensors by pattern; `resolve` turns it into one format for each tensor of
one file. It refuses formats that do not exist, patterns that match nothing, an output layer
that is untied twice, and rounding that no format has. A K-quant cannot hold rows that are no
multiple of 256: a tensor that a plan names for one is refused by name, and one that only the
default reaches falls back to the format in `FALLBACKS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from compiler.errors import QuantizationError
from compiler.llama.gguf_file import Tensor
from security.preparse.gguf_types import TENSOR_TYPES

KEEP: Final = "keep"
EMBEDDING: Final = "token_embd.weight"
OUTPUT: Final = "output.weight"
ROUNDINGS: Final = ("plain", "imatrix", "feedback")
TYPE_NUMBERS: Final = {kind.name: number for number, kind in TENSOR_TYPES.items()}

# What a K-quant becomes where rows are no multiple of 256; llama.cpp's own choices.
FALLBACKS: Final = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
# llama.cpp's mixes (llama_ftype), which give single tensors other formats than the name says.
MIXES: Final = {
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
}


@dataclass(frozen=True, slots=True)
class GgufPlan:
    """How to write a GGUF file anew.

    Attributes:
        default: format of every matrix that nothing else names, for instance "Q4_0", a mix of
            llama.cpp such as "Q4_K_M", or "keep": bit for bit as in the source.
        tensors: (regular expression, format or "keep"); the first that matches the whole name
            of a tensor counts, before `default`.
        output: format of the output layer, `output.weight`; None leaves it to the rest. In a
            model whose embedding doubles as the output layer it is the embedding's format
            too, unless `untie`.
        embedding: format of `token_embd.weight`; None leaves it to the rest.
        untie: write the output layer of such a model as a tensor of its own, in `output`'s
            format, made from the embedding, which then stays as `embedding` says.
        rounding: "plain" is llama.cpp's own without an importance matrix, "imatrix" with
            one, "feedback" passes each column's error on to those that follow it (see
            rounding.py); the last two need an importance matrix.
    """

    default: str = KEEP
    tensors: tuple[tuple[str, str], ...] = ()
    output: str | None = None
    embedding: str | None = None
    untie: bool = False
    rounding: str = "plain"

    def __post_init__(self) -> None:
        named = [kind for _, kind in self.tensors]
        named += [kind for kind in (self.output, self.embedding) if kind is not None]
        for kind in named:
            if kind != KEEP and kind not in TYPE_NUMBERS:
                raise QuantizationError(f"{kind!r} is none of: keep, {', '.join(TYPE_NUMBERS)}")
        if self.default != KEEP and self.default not in TYPE_NUMBERS | MIXES:
            known = ", ".join([*TYPE_NUMBERS, *MIXES])
            raise QuantizationError(f"{self.default!r} is none of: keep, {known}")
        if self.rounding not in ROUNDINGS:
            raise QuantizationError(f"rounding {self.rounding!r} is none of {', '.join(ROUNDINGS)}")
        if self.untie and self.output in (None, KEEP):
            raise QuantizationError("an untied output layer needs a format: set output as well")
        for pattern, _ in self.tensors:
            try:
                re.compile(pattern)
            except re.error as error:
                raise QuantizationError(f"the pattern {pattern!r} is not valid: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values; equal plans give equal dictionaries."""
        return {
            "default": self.default,
            "embedding": self.embedding,
            "output": self.output,
            "rounding": self.rounding,
            "tensors": [list(pair) for pair in self.tensors],
            "untie": self.untie,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> GgufPlan:
        """Read what `to_dict` wrote.

        Raises:
            QuantizationError: an unknown field, or a value of another type.
        """
        unknown = set(value) - set(cls.__dataclass_fields__)
        if unknown:
            raise QuantizationError(f"a GGUF plan has no field {sorted(unknown)[0]!r}")
        pairs = value.get("tensors", [])
        texts = [value.get(name, "") for name in ("default", "rounding")]
        texts += [value.get(name) or "" for name in ("output", "embedding")]
        valid = isinstance(pairs, list | tuple) and all(
            isinstance(pair, list | tuple) and [type(item) for item in pair] == [str, str]
            for pair in pairs
        )
        untie = value.get("untie", False)
        if not valid or not all(isinstance(t, str) for t in texts) or not isinstance(untie, bool):
            raise QuantizationError("a GGUF plan has a field of another type than it must have")
        fields = {name: value[name] for name in value if name != "tensors"}
        return cls(**fields, tensors=tuple((pair[0], pair[1]) for pair in pairs))


@dataclass(frozen=True, slots=True)
class Resolved:
    """One format for each tensor of one file.

    Attributes:
        types: tensor name to format, for all tensors to write, an untied output included.
        changed: names whose bytes differ from the source's.
        fallbacks: names that could not take the default's format, with what they got.
    """

    types: Mapping[str, str]
    changed: tuple[str, ...]
    fallbacks: Mapping[str, str]


def is_tied(tensors: Sequence[Tensor]) -> bool:
    """Say whether the embedding doubles as the output layer."""
    names = {tensor.name for tensor in tensors}
    return EMBEDDING in names and OUTPUT not in names


def resolve(plan: GgufPlan, tensors: Sequence[Tensor]) -> Resolved:
    """Give each tensor of a file its format; vectors always stay as they are.

    Raises:
        QuantizationError: a pattern matches no matrix, a named tensor cannot take its
            format, or there is nothing to untie.
    """
    tied = is_tied(tensors)
    if plan.untie and not tied:
        raise QuantizationError(
            "the file has an output layer of its own: there is nothing to untie"
        )
    matrices = {t.name: t for t in tensors if t.is_matrix}
    for pattern, _ in plan.tensors:
        if not any(re.fullmatch(pattern, name) for name in matrices):
            raise QuantizationError(f"the pattern {pattern!r} matches no matrix of the file")
    types: dict[str, str] = {}
    fallbacks: dict[str, str] = {}
    for tensor in tensors:
        wanted, explicit = KEEP, True
        if tensor.name in matrices:
            wanted, explicit = _wanted(plan, tensor.name, tied)
        kind = tensor.type if wanted == KEEP else _fitting(tensor, wanted, explicit)
        if wanted not in (KEEP, kind):
            fallbacks[tensor.name] = kind
        types[tensor.name] = kind
    changed = [t.name for t in tensors if types[t.name] != t.type]
    if plan.untie and plan.output is not None:
        types[OUTPUT] = _fitting(replace(matrices[EMBEDDING], name=OUTPUT), plan.output, True)
        changed.append(OUTPUT)
    return Resolved(types, tuple(changed), fallbacks)


def _wanted(plan: GgufPlan, name: str, tied: bool) -> tuple[str, bool]:
    """Return the format that a plan wants for a matrix, and whether it names the matrix."""
    if name == OUTPUT and plan.output is not None:
        return plan.output, True
    if name == EMBEDDING:
        if plan.embedding is not None:
            return plan.embedding, True
        if tied and not plan.untie and plan.output is not None:
            return plan.output, True
    for pattern, kind in plan.tensors:
        if re.fullmatch(pattern, name):
            return kind, True
    if name == EMBEDDING and plan.untie:
        return KEEP, True
    return (KEEP if plan.default in MIXES else plan.default), False


def _fitting(tensor: Tensor, kind: str, explicit: bool) -> str:
    block = TENSOR_TYPES[TYPE_NUMBERS[kind]].block_elements
    if tensor.columns % block == 0:
        return kind
    fallback = FALLBACKS.get(kind)
    fits = fallback is not None and tensor.columns % 32 == 0
    if explicit:
        advice = f"; {fallback} would fit" if fits else ""
        raise QuantizationError(
            f"{tensor.name}: rows of {tensor.columns} are no multiple of {block}, so it "
            f"cannot be {kind}{advice}"
        )
    return fallback if fits and fallback is not None else "F16"
