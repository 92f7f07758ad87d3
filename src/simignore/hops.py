"""Carrying a map over image tokens on through space: to the rest of the same thing, and to the things nearby.

Pure functions, no model in sight. Distances are in shares of a picture's longer side; other pictures are out of reach. No
N x N matrix is held: rows are computed a few hundred at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from simignore.types import Patches

CHUNK = 512  # rows of distances held at once
FAR = 10.0  # between tokens of two pictures, in sides


def spots(patches: Patches) -> Tensor:
    """[B, N, 3] where the middle of each image token lies: the number of its picture, and x and y in shares of the picture's
    longer side; not numbers for padding and for tokens without a place (learned queries), on the host.

    Tiles of one image whose boxes are known lie on one picture; every frame of a video is a picture.
    """
    out = torch.full((*patches.grid.shape, 3), torch.nan)
    for b, grids in enumerate(patches.grids):
        pictures: dict[tuple[int, ...], int] = {}
        for number, grid in enumerate(grids):
            if grid.kind == "tokens":
                continue
            own = (grid.image, grid.time) if grid.box is not None else (grid.image, grid.time, number)
            picture = pictures.setdefault(own, len(pictures))
            left, top, right, bottom = grid.box or (0.0, 0.0, 1.0, 1.0)
            across, down = grid.columns / (right - left), grid.rows / (bottom - top)  # the picture's sides in patches
            here = patches.grid[b] == number
            x = (left * across + patches.column[b][here] + 0.5) / max(across, down)
            y = (top * down + patches.row[b][here] + 0.5) / max(across, down)
            out[b, here] = torch.stack([torch.full_like(x, float(picture)), x, y], -1)
    return out


def nearby(mass: Tensor, where: Tensor, reach: Tensor) -> Tensor:
    """[B, N] ``sum_j mass_j exp(-d_ij / reach)``: how much of ``mass`` [B, N] lies around each token.

    where: [B, N, 3], :func:`spots`, without padding that is not a number. reach: a share of the picture's side.
    """
    return _gathered(mass, where, lambda start, apart: -apart / reach)


def same_thing(mass: Tensor, seen: Tensor, where: Tensor, size: Tensor, likeness: Tensor) -> Tensor:
    """[B, N] ``sum_j mass_j exp(likeness (v_i . v_j - 1) - (d_ij / size)^2)``: how much of ``mass`` [B, N] lies on what is
    close to each token and looks like it.

    seen: [B, N, D] of length 1. where: :func:`spots`. size: a share of the picture's side.
    """

    def weight(start: int, apart: Tensor) -> Tensor:
        alike = seen[:, start : start + CHUNK] @ seen.transpose(1, 2)
        return likeness * (alike - 1) - (apart / size).square()

    return _gathered(mass, where, weight)


def _gathered(mass: Tensor, where: Tensor, weight: Callable[[int, Tensor], Tensor]) -> Tensor:
    found = []
    for start in range(0, where.shape[1], CHUNK):
        rows = where[:, start : start + CHUNK]
        apart = torch.cdist(rows[..., 1:], where[..., 1:], compute_mode="donot_use_mm_for_euclid_dist")  # [B, chunk, N]
        apart = apart.masked_fill(rows[..., None, 0] != where[:, None, :, 0], FAR)
        found.append((weight(start, apart).exp() @ mass[..., None])[..., 0])
    return torch.cat(found, 1)
