"""DivPrune: the image tokens that are most unlike each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simignore.diversity import max_min, units
from simignore.matching import fetched, refuse
from simignore.methods.base import Method, needed
from simignore.select import by_order
from simignore.types import Selection, View


@dataclass(frozen=True)
class DivPrune(Method):
    """First the token whose nearest neighbour is farthest by cosine distance, then, one by one, the token whose nearest chosen
    one is farthest (greedy max-min).

    Why it works: image tokens repeat each other; those that are far apart cover what there is, whatever will be asked.
    Source: arXiv 2503.02175 (CVPR 2025). It reads the projected features, so towers without a class token need no substitute.

    keep: a count or a fraction.
    """

    source: ClassVar[str] = "arXiv 2503.02175 (CVPR 2025)"
    score_name: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ("visual",)

    def choose(self, view: View) -> Selection:
        counts = self.amounts(view)
        unit = units(needed(view.visual, "visual"), view.valid)
        order, broken = fetched(max_min(unit, view.valid, max(counts, default=0)), unit.isnan().any(-1))
        refuse(broken, "features")
        return by_order(order, view.real, counts)
