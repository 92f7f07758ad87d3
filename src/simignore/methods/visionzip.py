"""VisionZip: dominant tokens, and contextual tokens that hold the mean of the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import torch

from simignore.budget import check_count, check_number
from simignore.matching import closest, exact, fetched, ranks, refuse, sent, strided, unit
from simignore.merge import averaged
from simignore.methods.base import Method, looked
from simignore.select import check_numbers, from_kept
from simignore.types import PAD, Look, Selection, View


@dataclass(frozen=True)
class VisionZip(Method):
    """Keep the tokens that the vision tower attends to (dominant); of the rest keep evenly strided ones (contextual), into
    which all others are averaged, each into the one of the largest cosine of their keys (mean over heads).

    Why it works: the attention of a vision tower gathers in few tokens, which carry most of what it found; the averages keep a
    trace of everything else. Source: arXiv 2412.04467 (CVPR 2025), published with 54 + 10, 108 + 20 and 162 + 30 tokens.
    Attention is that of the class token, in towers without one the mean that all patches pay. The paper averages what the tower
    gives out; here the embeddings behind the projector are averaged, so that it works in every family.

    keep: dominant and contextual tokens together, a count or a fraction.
    contextual: how many of them are contextual: a share of those that stay (float in [0, 1], rounded half up) or a count (the
        sample keeps no more than ``keep`` in any case). With 0 the rest is dropped.
    """

    contextual: int | float = 10 / 64

    source: ClassVar[str] = "arXiv 2412.04467 (CVPR 2025)"
    score_name: ClassVar[str] = "attention in the vision tower"
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.contextual, Integral):
            object.__setattr__(self, "contextual", check_count("contextual", self.contextual, 0))
            return
        object.__setattr__(self, "contextual", check_number("contextual", self.contextual))
        if not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual={self.contextual} is no share in [0, 1]; for a count write an int")

    @property
    def looks(self) -> tuple[Look, ...]:
        return Look("attention"), Look("keys")

    def choose(self, view: View) -> Selection:
        attention, keys = looked(view, Look("attention")), looked(view, Look("keys"))
        counts, amounts = view.counts, self.amounts(view)
        context = [self.split(amount) for amount in amounts]
        dominant = [amount - few for amount, few in zip(amounts, context, strict=True)]
        rank = ranks(attention, view.valid)
        leading = rank < sent(dominant, rank.device)[:, None]  # [B, N]
        rest = view.valid & ~leading
        target = strided(rest, [n - few for n, few in zip(counts, dominant, strict=True)], context)
        units, broken = unit(exact(keys, view.valid).mean(2), view.valid)
        _, into = closest(units, target, max(context, default=0))
        score, kept, into, broken = fetched(exact(attention, view.valid), leading | target, into, broken)
        check_numbers(score, view.real)
        refuse(broken, "keys")
        chosen = from_kept(kept & view.real, score.masked_fill(~view.real, math.nan))
        own = torch.arange(kept.shape[1]).expand_as(into)
        return averaged(chosen, torch.where(kept, own, into).masked_fill(~view.real, PAD))

    def split(self, amount: int) -> int:
        """How many of ``amount`` tokens that stay are contextual."""
        if isinstance(self.contextual, int):
            return min(self.contextual, amount)
        return math.floor(self.contextual * amount + 0.5)
