"""EVS: of a video, keep what changed since the frame before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from simignore.methods.base import Scorer, needed
from simignore.types import PAD, Grid, Patches, View

CHUNK = 512  # tokens compared at once


@dataclass(frozen=True)
class EVS(Scorer):
    """Efficient Video Sampling: a token scores 1 - cos(V, V of the frame before at the same row and column), so what changed
    stays and what stood still goes. First frames have nothing before them and score infinitely high.

    Why it works: most patches of neighbouring frames are the same, and the first frame shows them already.
    Source: arXiv 2510.14624 (NVIDIA). The paper measures the change in pixels and keeps what exceeds a quantile; here it is
    measured in projected features, which is what a view holds, and the budget takes the place of the quantile.

    keep: see :class:`Method`. Where it is smaller than the first frames, those of their tokens stay that come first.
    What are frames: grids of kind "frame", each video by itself. In samples without any, images of one size (two or more, none
        of them tiled) are taken for the frames of one video, as some models are handed them. Images beside a video score as
        first frames do. Where an earlier cut took the token before, the last one at that place that is still there counts.
    Raises ValueError for a sample whose image tokens are not on two frames at least.
    """

    source: ClassVar[str] = "arXiv 2510.14624"
    score_name: ClassVar[str] = "change since the frame before"
    needs: ClassVar[tuple[str, ...]] = ("visual",)
    video: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.within == "grid":
            raise ValueError(
                "within='grid' puts each frame by itself, and EVS compares frames; say within='image' to share the budget out "
                "over videos, or FrameBudget(EVS(...)) to share it out over frames"
            )

    def score(self, view: View) -> Tensor:
        return changes(needed(view.visual, "visual"), earlier(view.patches))


def changes(visual: Tensor, before: Tensor) -> Tensor:
    """[B, N] 1 - cos(visual [B, N, D], that of the token ``before`` [B, N]); infinity where that is -1. Tokens without any
    change score exactly 0, zero vectors too."""
    exact = torch.promote_types(visual.dtype, torch.float32)
    before = before.to(visual.device)
    found = []
    for start in range(0, visual.shape[1], CHUNK):
        own = visual[:, start : start + CHUNK]
        index = before[:, start : start + CHUNK]
        last = visual.gather(1, index.clamp(min=0)[..., None].expand_as(own))  # [B, chunk, D]
        with torch.autocast(visual.device.type, enabled=False):
            own, last = normalize(own.to(exact), dim=-1), normalize(last.to(exact), dim=-1)
            change = (own - last).square().sum(-1) / 2  # 1 - cos for vectors of length 1, and exactly 0 for equal ones
        # a first frame is compared with nothing, and yet must not hide that its features are no numbers
        found.append(change.masked_fill(index == PAD, math.inf).masked_fill(own.isnan().any(-1), math.nan))
    return torch.cat(found, 1) if found else visual.new_zeros(visual.shape[:2])


def earlier(patches: Patches) -> Tensor:
    """[B, N] for each token the one at its row and column in the last earlier frame that has it, -1 for none; on the host.

    Raises ValueError for a sample whose tokens are not on two frames at least.
    """
    before = torch.full_like(patches.grid, PAD)
    for b, grids in enumerate(patches.grids):
        there = (patches.grid[b] != PAD).nonzero()[:, 0]
        if not len(there):
            continue
        grid = patches.grid[b, there]
        videos = torch.tensor(_videos(grids))
        present = torch.unique(grid)
        if not bool((torch.bincount(videos[present] + 1)[1:] > 1).any()):
            kinds = ", ".join(sorted({grids[number].kind for number in present.tolist()}))
            raise ValueError(
                f"sample {b} is no video: EVS compares frames, and its {len(there)} image tokens lie on {len(present)} grid(s) "
                f"of kind {kinds} that do not follow each other. Pass a video or several images of one size, and for still "
                "images use another method, such as UniformGrid."
            )
        row, column = patches.row[b, there], patches.column[b, there]
        key = (videos[grid] * (row.max() + 1) + row) * (column.max() + 1) + column
        moving = videos[grid] != PAD
        there, key = there[moving], key[moving]
        order = key.argsort(stable=True)  # the tokens of one place behind each other, by time
        same = key[order[1:]] == key[order[:-1]]
        before[b, there[order[1:]][same]] = there[order[:-1]][same]
    return before


def _videos(grids: Sequence[Grid]) -> list[int]:
    """For each grid of a sample the number of the video that it is a frame of, -1 for still images. A video whose frames change
    their size is another one from there on."""
    if any(grid.kind == "frame" for grid in grids):
        names = [(grid.image, grid.size) if grid.kind == "frame" else None for grid in grids]
    elif all(grid.kind in ("image", "tokens") for grid in grids) and len({grid.size for grid in grids}) == 1:
        names = [(0, grid.size) for grid in grids]
    else:
        names = [None for _ in grids]
    known = {name: number for number, name in enumerate(dict.fromkeys(name for name in names if name is not None))}
    return [PAD if name is None else known[name] for name in names]
