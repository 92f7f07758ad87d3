"""Carrying a map over image tokens on through space: to the rest of the same thing, and to the things nearby.

Pure functions, no model in sight. Distances are in shares of a picture's longer side; other pictures are out of reach. Of many
tokens no N x N matrix is held: rows are computed a few hundred at a time, anew for every map.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from simignore.types import Grid, Patches

Carry = Callable[[Tensor], Tensor]
HELD = 1 << 24  # weights of pairs that are held at once: 64 MB in float32
CHUNK = 512  # rows of distances held at once
FAR = 10.0  # between tokens of two pictures, in sides
WHOLE = (0.0, 0.0, 1.0, 1.0)


def spots(patches: Patches) -> Tensor:
    """[B, N, 3] where the middle of each image token lies: the number of its picture, and x and y in shares of the picture's
    longer side; not numbers for padding, and of tokens without a place (learned queries) only the first is one. On the host.

    Tiles of one image whose boxes are known lie on one picture, whose sides are measured in patches of the finest of them (an
    overview may be squeezed); every frame of a video is a picture.
    """
    out = torch.full((*patches.grid.shape, 3), torch.nan)
    for b, grids in enumerate(patches.grids):
        names = [_picture(grid, number) for number, grid in enumerate(grids)]
        sides: dict[tuple[int, ...], tuple[float, float]] = {}  # of each picture, in patches
        for name, grid in zip(names, grids, strict=True):
            sides[name] = max(sides.get(name, (0.0, 0.0)), _sides(grid), key=math.prod)
        for number, (name, grid) in enumerate(zip(names, grids, strict=True)):
            here = patches.grid[b] == number
            out[b, here, 0] = float([*sides].index(name))
            if grid.kind == "tokens":
                continue
            left, top, right, bottom = grid.box or WHOLE
            across, down = (side / max(sides[name]) for side in sides[name])
            out[b, here, 1] = (left + (patches.column[b][here] + 0.5) * ((right - left) / grid.columns)) * across
            out[b, here, 2] = (top + (patches.row[b][here] + 0.5) * ((bottom - top) / grid.rows)) * down
    return out


def _picture(grid: Grid, number: int) -> tuple[int, ...]:
    return (grid.image, grid.time) if grid.box is not None else (grid.image, grid.time, number)


def _sides(grid: Grid) -> tuple[float, float]:
    """How many of its columns and rows the whole picture holds."""
    left, top, right, bottom = grid.box or WHOLE
    return grid.columns / (right - left), grid.rows / (bottom - top)


def nearby(where: Tensor, reach: Tensor) -> Carry:
    """``p -> sum_j p_j exp(-d_ij / reach)``: how much of a map p [B, N] lies around each token.

    where: [B, N, 3], :func:`spots`, without padding that is not a number. reach: a share of the picture's side.
    """
    return _carry(where, lambda rows, apart: -apart / reach)


def same_thing(seen: Tensor, where: Tensor, size: Tensor, likeness: Tensor) -> Carry:
    """``p -> sum_j p_j exp(likeness (v_i . v_j - 1) - (d_ij / size)^2)``: how much of a map p [B, N] lies on what is close to
    each token and looks like it.

    seen: [B, N, D] of length 1. where: :func:`spots`. size: a share of the picture's side.
    """

    def weight(rows: slice, apart: Tensor) -> Tensor:
        return likeness * (seen[:, rows] @ seen.transpose(1, 2) - 1) - (apart / size).square()

    return _carry(where, weight)


def _carry(where: Tensor, weight: Callable[[slice, Tensor], Tensor]) -> Carry:
    """Sums with weights exp(weight). Those of few pairs are held for all maps to come, of many they are made anew."""

    def weights(rows: slice) -> Tensor:
        return weight(rows, _apart(where, rows)).exp()

    b, n, _ = where.shape
    chunks = [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]
    if b * n * n <= HELD:
        held = torch.cat([weights(rows) for rows in chunks], 1)
        return lambda mass: (held @ mass[..., None])[..., 0]
    return lambda mass: torch.cat([(weights(rows) @ mass[..., None])[..., 0] for rows in chunks], 1)


def _apart(where: Tensor, rows: slice) -> Tensor:
    """[B, rows, N] distances in sides of the picture."""
    steps = where[:, rows, None, 1:] - where[:, None, :, 1:]
    apart = steps.square().sum(-1).sqrt()
    return apart.masked_fill(where[:, rows, None, 0] != where[:, None, :, 0], FAR)
