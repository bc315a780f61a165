"""Which variants a bundle has, in which order, and what each needs of a processor.

An appliance runs the first variant whose level its processor has (docs/formats/bundle.md,
section 10), and knows nothing of for whom a file was made. So the order has to lead each
target to the file that was made for it, and every other processor to one that computes the
same there, or to none.

Refused: targets that an appliance could not tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from casemate.cpu import LEVELS
from compiler.bundling.forms import Form
from compiler.errors import TargetError
from compiler.targets.target import Target

SINGLE_ID: Final = "default"
# Targets of one architecture that follow each other and take one file; the least able last.
_Group = list[tuple[Target, Form]]


@dataclass(frozen=True, slots=True)
class CompiledVariant:
    """A variant of the bundle: its id, what it needs, for whom it was made, and its form."""

    id: str
    cpu: str | None
    targets: tuple[Target, ...]
    form: Form


def require_levels(targets: Sequence[Target]) -> None:
    """Refuse targets that an appliance could not tell apart.

    Raises:
        TargetError: two of them have one level, or both none.
    """
    seen: dict[tuple[str, str | None], str] = {}
    for target in targets:
        key = target.arch, target.level
        if key in seen:
            raise TargetError(
                f"the targets {seen[key]!r} and {target.name!r} are both "
                f"{target.level or target.arch}: an appliance could not tell them apart"
            )
        seen[key] = target.name
    plain = [target for target in targets if target.level is None]
    if len(plain) > 1:
        first, second = plain[:2]
        raise TargetError(
            f"the targets {first.name!r} ({first.arch}) and {second.name!r} ({second.arch}) have "
            "no level: an appliance could not tell them apart. Give one a level, or leave one "
            "out: what is made for the other runs on both"
        )


def arrange(forms: Sequence[tuple[Target, Form]]) -> tuple[CompiledVariant, ...]:
    """Return the variants in the order in which an appliance tries them.

    1. For each architecture, the more a processor can do, the earlier its variant. Targets
       that follow each other there and take one file are one variant, for the least of them.
    2. A variant without a requirement is satisfied everywhere: it computes the same on every
       processor, and nothing follows it. It is the one for a target without a level, else
       the last that can be.
    3. What would give an architecture that same file anyway is one variant with it.

    Raises:
        TargetError: as `require_levels`, or a form for a target without a level is not exact
            on every processor.
    """
    require_levels([target for target, _ in forms])
    groups = _groups(forms)
    tail = _unconditional(groups)
    if tail is not None:
        least = [group for group in groups if group is _least_of(groups, group[-1][0].arch)]
        same = [group for group in least if group[-1][1].path == tail[-1][1].path]
        groups = [group for group in groups if group not in same]
        groups.append([*(one for group in same if group is not tail for one in group), *tail])
    variants = []
    for number, group in enumerate(groups):
        target, form = group[-1]
        cpu = None if tail is not None and number == len(groups) - 1 else target.level
        variant_id = SINGLE_ID if len(groups) == 1 else _identifier(target)
        targets = tuple(target for target, _ in group)
        variants.append(CompiledVariant(variant_id, cpu, targets, form))
    return tuple(variants)


def _groups(forms: Sequence[tuple[Target, Form]]) -> list[_Group]:
    groups: list[_Group] = []
    ordered = sorted(forms, key=lambda one: (one[0].arch, -_rank(one[0])))
    for _, of_one in groupby(ordered, key=lambda one: (one[0].arch, one[1].path)):
        groups.append(list(of_one))
    return sorted(groups, key=lambda group: (-_rank(group[-1][0]), group[-1][0].name))


def _least_of(groups: Sequence[_Group], arch: str) -> _Group:
    return [group for group in groups if group[-1][0].arch == arch][-1]


def _unconditional(groups: Sequence[_Group]) -> _Group | None:
    """Return the group whose variant needs nothing of a processor, or None."""
    for target, form in (group[-1] for group in groups):
        if target.level is None and not form.exact_anywhere:
            raise TargetError(
                f"the target {target.name!r} has no level, and {form.label} is exact on some "
                "processors alone: give it a level"
            )
    # One that is not its architecture's last would hide the last from the least able.
    archs = {group[-1][0].arch for group in groups}
    able = [group for group in (_least_of(groups, arch) for arch in archs) if _exact(group)]
    return max(able, key=groups.index, default=None)


def _exact(group: _Group) -> bool:
    return group[-1][1].exact_anywhere


def _rank(target: Target) -> int:
    return 0 if target.level is None else LEVELS[target.level].rank


def _identifier(target: Target) -> str:
    return (target.level or target.arch).replace(".", "_")
