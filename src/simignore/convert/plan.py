"""Names and shapes -> what becomes of every tensor. Pure: no model, no file, no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from simignore.convert.layouts import Rule

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """One tensor that does not fit. name: in the source, or in the target for one that is missing there."""

    kind: Literal["missing", "left over", "wrong shape"]
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name} {self.detail}"


class MappingError(ValueError):
    """Some tensors of a checkpoint have no place, or some places no tensor. The message lists every one of them."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        counts = {
            kind: sum(problem.kind == kind for problem in problems) for kind in ("missing", "left over", "wrong shape")
        }
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        self.problems = tuple(problems)
        self.summary = (
            f"the tensors of {where} do not fit ({told}), so nothing was written; a shard may be missing, or the config "
            "be of another model"
        )
        super().__init__("\n".join([self.summary, *map(str, problems)]))


@dataclass(frozen=True)
class Plan:
    """What becomes of every tensor of a checkpoint.

    moves: source name -> target names, three for a fused tensor. drops: source name -> why.
    problems: all that does not fit, in the order of the names.
    """

    moves: Mapping[str, tuple[str, ...]]
    drops: Mapping[str, str]
    problems: tuple[Problem, ...]


def plan(found: Mapping[str, Shape], rules: Sequence[Rule], wanted: Mapping[str, Shape]) -> Plan:
    """Account for every tensor: mapped, dropped on purpose, or a problem.

    found: name -> shape in the checkpoint. rules: of its layout. wanted: name -> shape that the target needs.
    """
    moves: dict[str, tuple[str, ...]] = {}
    drops: dict[str, str] = {}
    problems: list[Problem] = []
    filled: dict[str, str] = {}  # target -> source
    for name, shape in found.items():
        rule, targets = _decide(name, rules)
        if rule is None:
            problems.append(Problem("left over", name, f"{list(shape)}: no rule of this layout names it"))
        elif not targets:
            drops[name] = rule.why
        elif (trouble := _misfit(name, shape, targets, wanted, filled)) is not None:
            problems.append(trouble)
            filled |= dict.fromkeys(targets, name)  # told once, not as missing as well
        else:
            moves[name] = targets
            filled |= dict.fromkeys(targets, name)
    missing = [Problem("missing", name, str(list(shape))) for name, shape in wanted.items() if name not in filled]
    return Plan(moves, drops, (*problems, *missing))


def _decide(name: str, rules: Sequence[Rule]) -> tuple[Rule | None, tuple[str, ...]]:
    for rule in rules:
        if match := re.fullmatch(rule.pattern, name):
            return rule, tuple(match.expand(target) for target in rule.to)
    return None, ()


def _misfit(
    name: str, shape: Shape, targets: tuple[str, ...], wanted: Mapping[str, Shape], filled: Mapping[str, str]
) -> Problem | None:
    """Why a tensor cannot become ``targets``; a fused one holds them on top of each other, all of one shape."""
    unknown = [target for target in targets if target not in wanted]
    if unknown:
        return Problem("left over", name, f"{list(shape)}: the target has no {', '.join(unknown)}")
    taken = [f"{target} is filled by {filled[target]}" for target in targets if target in filled]
    if taken:
        return Problem("left over", name, f"{list(shape)}: {', '.join(taken)}")
    shapes = {wanted[target] for target in targets}
    first = wanted[targets[0]]
    needed = (len(targets) * first[0], *first[1:]) if len(targets) > 1 else first
    if len(shapes) > 1 or shape != needed:
        return Problem("wrong shape", name, f"{list(shape)} found, {list(needed)} wanted")
    return None
