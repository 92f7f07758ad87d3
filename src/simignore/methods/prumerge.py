"""PruMerge: the tokens that stand out in the class token's attention, each with its neighbours merged in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from simignore.budget import Keep, Outliers, check_count
from simignore.matching import absorbed
from simignore.methods.base import Method, looked
from simignore.select import top_k
from simignore.types import Look, Selection, View


@dataclass(frozen=True)
class PruMerge(Method):
    """Keep the tokens whose attention from the class token, in the tower's last layer, stands out (above Q3 + 1.5 IQR); each
    becomes the mean of itself and its nearest dropped tokens (cosine of keys, all heads), weighted by that attention.

    Why it works: that attention is sparse, so its outliers tell how many tokens an image needs; the neighbours merged in
    supplement what was cut around them. Source: PruMerge, arXiv 2403.15388. A dropped token may go into several kept ones.
    In towers without a class token the mean attention that all patches pay stands in for it. The paper averages what the tower
    gives out; here the embeddings behind the projector are averaged.

    keep: ``Outliers(1.5)`` decides for each sample by itself; a count, a fraction or another budget is possible too.
    neighbours: how many dropped tokens each kept one takes in.
    """

    keep: Keep = field(default=Outliers())
    neighbours: int = 32

    source: ClassVar[str] = "arXiv 2403.15388"
    score_name: ClassVar[str] = "attention in the vision tower"
    merges: ClassVar[bool] = True
    scored: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "neighbours", check_count("neighbours", self.neighbours, 1))

    @property
    def looks(self) -> tuple[Look, ...]:
        return Look("attention", -1), Look("keys", -1)

    def choose(self, view: View) -> Selection:
        attention, keys = (looked(view, look) for look in self.looks)
        chosen = top_k(attention, view.real, self.keep, view.totals)  # type: ignore[arg-type]
        return absorbed(chosen, keys.flatten(2), view.valid, self.neighbours)
