"""What the deletion and insertion tests can say: which views beat chance, by a margin, and whether anything can be told."""

from __future__ import annotations

import numpy as np

from simignore.flow.report import Array, FlowReport, Removal

TIE = 0.005  # of area under a curve of probability; what differs by less is level
KINDS = ("deletion", "insertion")


def views(removal: Removal) -> list[str]:
    """The views that were tested."""
    return [name for name in removal.area if name != "random"]


def chance_areas(removal: Removal) -> tuple[Array, Array]:
    """[R] areas under each random order's curve of probability, by trapezoids: deletion, insertion."""
    found = []
    for kind in KINDS:
        likely = np.exp(np.atleast_2d(removal.random[kind]))  # [R, F]
        found.append(((likely[:, 1:] + likely[:, :-1]) / 2 * np.diff(removal.fractions)).sum(-1))
    return found[0], found[1]


def leads(removal: Removal, column: int) -> dict[str, float]:
    """How far each view is ahead of the best random order in one test (0 deletion, 1 insertion), furthest first."""
    chance = chance_areas(removal)[column]
    ahead = {
        name: float(chance.min() - removal.area[name][0] if column == 0 else removal.area[name][1] - chance.max())
        for name in views(removal)
    }
    return dict(sorted(ahead.items(), key=lambda item: -item[1]))


def winners(removal: Removal, column: int) -> list[str]:
    """The views that beat every random order in one test by more than a tie, furthest first."""
    return [name for name, ahead in leads(removal, column).items() if ahead >= TIE]


def level(removal: Removal, column: int) -> bool:
    """Whether all views and all random orders are within a tie of each other, so that one test cannot tell them apart."""
    every = [*(removal.area[name][column] for name in views(removal)), *chance_areas(removal)[column].tolist()]
    return bool(max(every) - min(every) < TIE)


def needless(report: FlowReport) -> bool:
    """Whether the answer comes without the picture as well; then nothing that is removed can tell."""
    removal = report.removal
    if removal is None:
        return False
    bare = next((swap for swap in report.swaps if swap.kept == 0), None)
    return bare.same if bare is not None else alone(removal) >= 0.5


def alone(removal: Removal) -> float:
    """How likely an answer token stays with no image token at all."""
    return float(np.exp(next(iter(removal.deletion.values()))[-1])) if removal.deletion else 0.0


def speaks(report: FlowReport) -> bool:
    """Whether the tests say of any view that it may be believed."""
    removal = report.removal
    return removal is not None and not needless(report) and any(winners(removal, column) for column in (0, 1))
