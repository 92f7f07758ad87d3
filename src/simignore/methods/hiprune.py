"""HiPrune: objects from a middle layer of the vision tower, the whole scene from a deep one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar

import torch
from torch import Tensor

from simignore.budget import check_count, check_number
from simignore.matching import exact, fetched, ranks, sent
from simignore.methods.base import Method, looked
from simignore.select import by_order, check_numbers
from simignore.types import PAD, Look, Patches, Selection, View


@dataclass(frozen=True)
class HiPrune(Method):
    """Keep the tokens that receive most attention in a middle layer of the vision tower (anchors) with their four neighbours in
    the grid; fill up with those that receive most in the layer whose output the projector reads. Exactly ``keep`` stay.

    Why it works: middle layers look at objects, deep ones gather what the whole image is about.
    Source: arXiv 2508.00553. It needs no class token: attention received is the mean over all tokens of the tower.
    Anchors are floor(alpha * k / 5) of the k that stay, so that they and their neighbours are at most a share alpha of them;
    neighbours beyond the border are not replaced. Neighbours lie in the same image, tile or frame.

    keep: a count or a fraction. alpha: the share of anchors and neighbours, in [0, 1].
    object_layer: the middle layer of the tower, counted from 0 or from the end, or as a share of its depth (float in (0, 1));
        the paper's is 9 of CLIP-L's 24.
    """

    alpha: float = 0.1
    object_layer: int | float = 9 / 24

    source: ClassVar[str] = "arXiv 2508.00553"
    score_name: ClassVar[str] = "attention received in the vision tower"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "alpha", check_number("alpha", self.alpha))
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} is no share in [0, 1]")
        if isinstance(self.object_layer, Real) and not isinstance(self.object_layer, Integral):
            if not 0 < self.object_layer < 1:
                raise ValueError(
                    f"object_layer={self.object_layer} is no share of the tower's depth in (0, 1); for a layer's number write "
                    "an int"
                )
        else:  # negative ones count from the end
            object.__setattr__(self, "object_layer", check_count("object_layer", self.object_layer, -(10**6)))

    @property
    def looks(self) -> tuple[Look, ...]:
        return Look("received", self.object_layer), Look("received")

    def choose(self, view: View) -> Selection:
        middle, last = (looked(view, look) for look in self.looks)
        amounts = self.amounts(view)
        anchors = [math.floor(self.alpha * amount / 5 + 1e-9) for amount in amounts]
        order = first_objects(ranks(middle, view.valid), ranks(last, view.valid), anchors, around(view.patches))
        order, objects, score = fetched(order, exact(middle, view.valid), exact(last, view.valid))
        check_numbers(objects, view.real)
        check_numbers(score, view.real)
        return by_order(order, view.real, amounts, score)


def first_objects(middle: Tensor, last: Tensor, anchors: Sequence[int], beside: Tensor) -> Tensor:
    """[B, N] the tokens in the order in which they stay: anchors and their neighbours, then all others, both by their rank in
    the last layer. middle, last: [B, N] ranks, 0 for the best. beside: [B, N, 4] each token's neighbours, -1 for none."""
    b, n, _ = beside.shape
    anchor = middle < sent(anchors, middle.device)[:, None]  # [B, N]
    beside = beside.to(middle.device, non_blocking=True)
    near = anchor.gather(1, beside.clamp(min=0).flatten(1)).view(b, n, 4) & (beside != PAD)
    chosen = anchor | near.any(2)  # being a neighbour is mutual
    return torch.where(chosen, last, last + n).argsort(1)


def around(patches: Patches) -> Tensor:
    """[B, N, 4] the tokens above, below, left and right of each token in its own grid; -1 where there is none."""
    grid, row, column = patches.grid, patches.row, patches.column
    if grid.numel() == 0:
        return torch.full((*grid.shape, 4), PAD)
    wide = int(column.max()) + 3  # an empty column on either side, so that no row runs into the next
    high = int(row.max()) + 3
    place = ((grid * high + row + 1) * wide + column + 1).masked_fill(grid == PAD, -1)  # [B, N]
    known, token = place.sort(1)
    found = []
    for step in (-wide, wide, -1, 1):
        wanted = place + step
        slot = torch.searchsorted(known, wanted).clamp(max=place.shape[1] - 1)
        found.append(torch.where(known.gather(1, slot) == wanted, token.gather(1, slot), PAD))
    return torch.stack(found, 2).masked_fill((grid == PAD)[..., None], PAD)
