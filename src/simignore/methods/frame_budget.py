"""FrameBudget: share the budget out over frames by how much their best tokens score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from simignore.budget import Keep, check_count, check_keep
from simignore.cells import apportion
from simignore.methods.base import Scorer, check_plain
from simignore.select import from_kept, top_k
from simignore.types import PAD, Cut, Hide, Look, Positions, Selection, View, Within

DIGITS = 12  # of weights, so that equal means are equal in whatever order they were summed up


@dataclass(frozen=True)
class FrameBudget(Scorer):
    """Share another method's budget out over the sample's frames (or images, or tiles: its grids), then keep each one's
    highest scores. Each frame gets ``floor`` tokens; what is left goes to frames in proportion to the mean of their top scores.

    Why it works: a flat top-k may spend all of a long video's budget on one scene; with a share for each frame nothing that
    happened is lost altogether, and frames that matter still get more. Source: this project.

    scorer: the method whose scores and budget are shared out, such as ``FrameBudget(Simignore(keep=256))`` for frames that the
        question is about, or ``FrameBudget(EVS(keep=256))`` for frames in which much changes. Only scores are
        read, so a method that merges, or chooses by more than its scores, is refused.
    keep: that of the scorer, and so are layer, hide, positions and within.
    floor: tokens that each frame gets first, while the budget lasts (the heaviest frames first).
    top: the share of a frame's tokens whose mean score is its weight, at least one token. Scores are put between 0 (the
        sample's lowest) and 1 (its highest) before; where all are equal, all frames weigh the same.
    """

    scorer: Scorer
    floor: int = 1
    top: float = 0.1
    keep: Keep = field(init=False, repr=False)
    layer: int | float | None = field(init=False, repr=False)
    hide: Hide = field(init=False, repr=False)
    positions: Positions = field(init=False, repr=False)
    within: Within = field(init=False, repr=False)

    composed: ClassVar[bool] = True
    source: ClassVar[str] = "this project"

    def __post_init__(self) -> None:
        if not isinstance(self.scorer, Scorer):
            name = self.scorer.__name__ if isinstance(self.scorer, type) else type(self.scorer).__name__
            raise TypeError(
                f"FrameBudget shares out the budget of a method with scores, got {name}: FrameBudget(Simignore(keep=256))"
            )
        check_plain("FrameBudget", self.scorer)
        for name in ("keep", "layer", "hide", "positions", "within", "needs"):
            object.__setattr__(self, name, getattr(self.scorer, name))
        object.__setattr__(self, "floor", check_count("floor", self.floor, 0))
        try:
            top = check_keep(self.top)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("keep=", "top=")) from None
        if not isinstance(top, float):
            raise ValueError(f"top={self.top!r} is a count; give the share of each frame's tokens, such as top=0.1")
        object.__setattr__(self, "top", top)
        super().__post_init__()

    def __str__(self) -> str:
        told = [f for f in fields(self) if f.init and f.name != "scorer" and getattr(self, f.name) != f.default]
        return f"FrameBudget({', '.join([str(self.scorer), *(f'{f.name}={getattr(self, f.name)!r}' for f in told)])})"

    @property
    def score_kind(self) -> str:
        return self.scorer.score_kind

    def with_keep(self, keep: Keep) -> FrameBudget:
        return replace(self, scorer=self.scorer.with_keep(keep))

    @property
    def span(self) -> str:
        """The part of the prompt that the scorer compares with."""
        return getattr(self.scorer, "span", "auto")

    @property
    def looks(self) -> tuple[Look, ...]:
        return self.scorer.looks

    def raters(self, view: View) -> Tensor | None:
        return self.scorer.raters(view)

    def cuts(self) -> Sequence[Cut]:
        return tuple(replace(self, scorer=cut) for cut in self.scorer.cuts())  # type: ignore[arg-type]

    def score(self, view: View) -> Tensor:
        return self.scorer.score(view)

    def choose(self, view: View) -> Selection:
        score, real = self.score(view).detach().cpu(), view.real
        flat = top_k(score, real, self.keep, view.totals)  # type: ignore[arg-type]
        kept = torch.zeros_like(real)
        for b, count in enumerate(flat.count.tolist()):
            grid = view.patches.grid[b]
            frames = [(grid == number).nonzero()[:, 0] for number in sorted({*grid.tolist()} - {PAD})]
            kept[b] = _among_frames(score[b].double(), frames, count, self.floor, self.top)
        return from_kept(kept, flat.score, flat.notes)


def _among_frames(score: Tensor, frames: Sequence[Tensor], count: int, floor: int, top: float) -> Tensor:
    """[N] True for the ``count`` tokens that stay of one sample, whose frames hold the tokens named."""
    kept = torch.zeros(len(score), dtype=torch.bool)
    if not frames:
        return kept
    level = _levelled(score, torch.cat(list(frames)))
    # each frame's tokens, best first
    ranked = [own[score[own].argsort(descending=True, stable=True)] for own in frames]
    heads = [own[: max(1, math.floor(top * len(own) + 0.5))] for own in ranked]
    weight = [round(float(level[head].mean()), DIGITS) for head in heads]
    for own, share in zip(ranked, apportion(count, weight, [len(own) for own in frames], floor), strict=True):
        kept[own[:share]] = True
    return kept


def _levelled(score: Tensor, tokens: Tensor) -> Tensor:
    """[N] the scores of these tokens between 0 and 1; infinite ones are the highest or the lowest there is."""
    own = score[tokens]
    finite = own[own.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    level = torch.zeros_like(score)
    level[tokens] = (own.clamp(low, high) - low) / (high - low) if high > low else 0.0
    return level.masked_fill(score == math.inf, 1.0)
