"""VisPruner: tokens that the vision tower attends to, and tokens that are unlike each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from simignore.budget import budget, check_keep, check_number
from simignore.matching import best, exact, fetched, pick, places, ranks, refuse, sent, unit
from simignore.methods.base import Method, looked
from simignore.select import check_numbers, from_kept
from simignore.types import Look, Selection, View


@dataclass(frozen=True)
class VisPruner(Method):
    """Keep a share of the tokens by the vision tower's attention, and from the rest those that are unlike each other: in
    rounds the rest is split into even and odd ones, and the even ones most similar (cosine of features) to an odd one go.

    Why it works: attention finds the foreground but picks near duplicates; the diverse ones bring the background back.
    Source: VisPruner (ICCV 2025), published with half of the tokens by attention, at 64 tokens with three quarters.
    Attention is that of the class token, in towers without one the mean that all patches pay; features are what the layer that
    the projector reads gives out. Every round counts the tokens that are left in reading order.

    keep: a count or a fraction. important: the share of them that is chosen by attention, in [0, 1], rounded half up.
    step: tokens that go per round: a count, or a share of the sample's image tokens (8 of 576 by default); the last round takes
        what is left to take, no round more than all even ones.
    """

    important: float = 0.5
    step: int | float = 8 / 576

    source: ClassVar[str] = "VisPruner (ICCV 2025)"
    score_name: ClassVar[str] = "attention in the vision tower"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "important", check_number("important", self.important))
        if not 0 <= self.important <= 1:
            raise ValueError(f"important={self.important} is no share in [0, 1]")
        try:
            object.__setattr__(self, "step", check_keep(self.step))
        except (TypeError, ValueError) as error:
            raise ValueError(str(error).replace("keep=", "step=")) from None

    @property
    def looks(self) -> tuple[Look, ...]:
        return Look("attention"), Look("features")

    def choose(self, view: View) -> Selection:
        attention, features = looked(view, Look("attention")), looked(view, Look("features"))
        amounts = self.amounts(view)
        leading = [math.floor(self.important * amount + 0.5) for amount in amounts]
        wanted = [amount - lead for amount, lead in zip(amounts, leading, strict=True)]
        # where nothing diverse is wanted the rest is dropped at once
        sizes = [n - lead if want else 0 for n, lead, want in zip(view.counts, leading, wanted, strict=True)]
        important = ranks(attention, view.valid) < sent(leading, view.valid.device)[:, None]  # [B, N]
        rest = view.valid & ~important & (sent(wanted, view.valid.device)[:, None] > 0)
        units, broken = unit(features, view.valid)
        steps = [self.step if isinstance(self.step, int) else budget(self.step, n) for n in view.counts]
        kept = important | distinct(units, rest, sizes, wanted, steps)
        score, kept, broken = fetched(exact(attention, view.valid), kept, broken)
        check_numbers(score, view.real)
        refuse(broken, "features")
        return from_kept(kept & view.real, score.masked_fill(~view.real, math.nan))


def distinct(units: Tensor, alive: Tensor, sizes: Sequence[int], wanted: Sequence[int], steps: Sequence[int]) -> Tensor:
    """[B, N] the ``wanted[b]`` tokens that are left of the ``sizes[b]`` that ``alive`` marks, after rounds that drop the
    ``steps[b]`` even ones most similar to an odd one; of equally similar ones the first in reading order. units: [B, N, C]."""
    rounds, left = [], list(sizes)
    while any(size > want for size, want in zip(left, wanted, strict=True)):
        rounds.append([min(step, (n + 1) // 2, n - want) for n, want, step in zip(left, wanted, steps, strict=True)])
        left = [n - drop for n, drop in zip(left, rounds[-1], strict=True)]
    order, there = places(alive, max(sizes, default=0))
    drops = sent(rounds, units.device) if rounds else ()
    width = list(sizes)
    for drop, numbers in zip(drops, rounds, strict=True):
        even, odd = order[:, 0::2], order[:, 1::2]
        similar, _ = best(pick(units, even), pick(units, odd), there[:, 1::2])  # [B, E]
        there = there.clone()
        there[:, 0::2] &= ranks(similar, there[:, 0::2]) >= drop[:, None]
        width = [n - few for n, few in zip(width, numbers, strict=True)]
        slot, there = places(there, max(width))
        order = order.gather(1, slot)
    return torch.zeros_like(alive).scatter(1, order, there)
