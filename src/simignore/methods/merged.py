"""Merged: any method that drops, with what it drops averaged into what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from simignore.budget import Keep, check_number
from simignore.matching import closest, fetched, refuse, unit
from simignore.merge import averaged
from simignore.methods.base import Method, needed
from simignore.types import PAD, Cut, Look, Selection, View


class Merged(Method):
    """Let ``method`` choose, then average each token that it drops into the kept one of the largest cosine, comparing tokens as
    the decoder holds them at the cut. All that went into one token count the same.

    Why it works: what is dropped is often nearly what is kept, and the mean keeps a trace of the rest, at no further cost.

    method: any method that merges nothing itself; schedules and chains are merged at each of their cuts.
    least: the smallest cosine with which a token is merged; those below are dropped. None: all are merged.
    keep: that of ``method``; so are layer, hide, positions, within, needs and looks.
    """

    composed: ClassVar[bool] = True

    method: Method
    least: float | None

    def __init__(self, method: Method, least: float | None = None) -> None:
        if not isinstance(method, Method):
            raise TypeError(f"Merged is laid over a method, got {type(method).__name__}: Merged(FastV(keep=64))")
        if any(getattr(cut, "merges", False) for cut in method.cuts()):
            raise ValueError(f"{method} merges what it drops already; use it without Merged")
        least = None if least is None else check_number("least", least)
        for name in ("keep", "layer", "hide", "positions", "within", "source", "scored"):
            object.__setattr__(self, name, getattr(method, name))
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "least", least)
        object.__setattr__(self, "needs", tuple(dict.fromkeys((*method.needs, "hidden"))))
        object.__setattr__(self, "merges", True)

    @property
    def score_kind(self) -> str:
        return self.method.score_kind

    def with_keep(self, keep: Keep) -> Merged:
        return Merged(self.method.with_keep(keep), self.least)

    @property
    def looks(self) -> tuple[Look, ...]:
        return self.method.looks

    @property
    def span(self) -> str:
        """The part of the prompt that the method wants image tokens compared with, where it has such a wish."""
        return getattr(self.method, "span", "auto")

    def raters(self, view: View) -> Tensor | None:
        return self.method.raters(view)

    def cuts(self) -> Sequence[Cut]:
        own = self.method.cuts()
        if len(own) == 1 and own[0] is self.method:
            return (self,)
        return tuple(Merged(cut, self.least) for cut in own)  # type: ignore[arg-type]

    def choose(self, view: View) -> Selection:
        chosen = self.method.choose(view)
        kept, real = chosen.kept, view.real
        if not bool((real & ~kept).any()):
            return chosen
        units, broken = unit(needed(view.hidden, "hidden"), view.valid)
        there = kept.to(units.device, non_blocking=True)
        cosine, into, broken = fetched(*closest(units, there, chosen.index.shape[1]), broken)
        refuse(broken, "hidden states")
        if self.least is not None:
            into = into.masked_fill(cosine < self.least, PAD)
        own = torch.arange(kept.shape[1]).expand_as(into)
        return averaged(chosen, torch.where(kept, own, into).masked_fill(~real, PAD))

    def __repr__(self) -> str:
        return f"Merged({self.method!r}{self._limit})"

    def __str__(self) -> str:
        return f"Merged({self.method}{self._limit})"

    @property
    def _limit(self) -> str:
        return "" if self.least is None else f", least={self.least!r}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Merged) and (self.method, self.least) == (other.method, other.least)

    def __hash__(self) -> int:
        return hash((self.method, self.least))
