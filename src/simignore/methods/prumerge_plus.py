"""PruMerge+: PruMerge with evenly strided tokens besides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from simignore.budget import Budget, Keep, OfAll, Outliers, check_count, check_number, most
from simignore.matching import absorbed, ranks, sent, strided
from simignore.methods.base import Method, looked
from simignore.select import check_numbers, from_kept
from simignore.types import Look, Selection, View


@dataclass(frozen=True)
class PruMergePlus(Method):
    """As PruMerge keep the tokens that stand out in the class token's attention of the tower's last layer, add evenly strided
    ones of the rest, and let each take in its nearest dropped tokens (cosine of keys, all heads), weighted by that attention.

    Why it works: outliers of attention gather on few objects; the strided tokens cover the image, for questions about the rest.
    Source: PruMerge+, arXiv 2403.15388. There the two together come to about a quarter of the tokens, of which 5 to 7 % are
    outliers, so there are three strided tokens to each outlier here. Towers without a class token, and where the averages are
    made: as in PruMerge.

    keep: with ``Outliers(1.5)``, or another budget that reads scores, that many tokens by attention and ``extra`` strided ones
        to each of them, up to the budget's cap; with a count or a fraction exactly that many in all, in the same proportion.
    neighbours: how many dropped tokens each kept one takes in. extra: strided tokens to each one chosen by attention.
    """

    keep: Keep = field(default=Outliers())
    neighbours: int = 32
    extra: float = 3.0

    source: ClassVar[str] = "arXiv 2403.15388"
    score_name: ClassVar[str] = "attention in the vision tower"
    merges: ClassVar[bool] = True
    scored: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "neighbours", check_count("neighbours", self.neighbours, 1))
        object.__setattr__(self, "extra", check_number("extra", self.extra))
        if self.extra < 0:
            raise ValueError(f"extra={self.extra:g} strided tokens to each outlier; it must be at least 0")

    @property
    def looks(self) -> tuple[Look, ...]:
        return Look("attention", -1), Look("keys", -1)

    def choose(self, view: View) -> Selection:
        attention, keys = (looked(view, look) for look in self.looks)
        score, real = attention.detach().cpu(), view.real
        check_numbers(score, real)
        leading, amounts, notes = self.split(score, view)
        outliers = ranks(score, real) < sent(leading, score.device)[:, None]  # [B, N]
        sizes = [n - lead for n, lead in zip(view.counts, leading, strict=True)]
        added = [amount - lead for amount, lead in zip(amounts, leading, strict=True)]
        kept = outliers | strided(real & ~outliers, sizes, added)
        chosen = from_kept(kept, score.masked_fill(~real, math.nan), notes)
        return absorbed(chosen, keys.flatten(2), view.valid, self.neighbours)

    def split(self, score: Tensor, view: View) -> tuple[list[int], list[int], tuple[str, ...]]:
        """For each sample how many stay by attention, how many in all, and what the budget has to say."""
        if not isinstance(self.keep, Budget) or isinstance(self.keep, OfAll):
            amounts = self.amounts(view)
            return [min(k, max(1, math.floor(k / (1 + self.extra) + 0.5))) for k in amounts], amounts, ()
        counts, keep = view.counts, self.keep
        own = [row[real] for row, real in zip(score, view.real, strict=True)]
        found = [keep.count(row, total) for row, total in zip(own, view.totals or counts, strict=True)]
        leading = [count for count, _ in found]
        wanted = [count + math.floor(self.extra * count + 0.5) for count in leading]
        amounts = [min(many, most(keep.cap, n)) if n else 0 for many, n in zip(wanted, counts, strict=True)]
        notes = tuple(note for _, note in found)
        return leading, amounts, notes if any(notes) else ()
