"""From what the vision tower shows of its patches to the image tokens made of them: one pure function per way of making them.

A function gets what the tower saw, picture by picture [S, ...] without class tokens, and the grids of image tokens in the same
order, and gives for each grid what its tokens [rows * columns, ...] are made of, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from simignore.types import Grid

Patching = Callable[[Any, Sequence[Tensor], Sequence[Grid]], list[Tensor]]  # (config, what was seen, grids)


class PatchingError(ValueError):
    """What the tower saw does not fit the prompt's images."""


def pictures(config: Any, seen: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
    """Each grid is one picture that the tower saw: its tokens are the picture's patches, or means of equal blocks of them.

    Where the tower takes several pictures in one row of patches, they follow each other. A grid stitched together from tiles
    (``Grid.stitched``) takes as many pictures, and what is padding there is cut off.
    """
    _check_number(seen, wanted := sum(tiles(grid) for grid in grids))
    if len(seen) == wanted:
        found, start = [], 0
        for grid in grids:
            own = seen[start : start + tiles(grid)]
            found.append(stitched(own, grid) if grid.stitched else _brought(own[0], grid))
            start += tiles(grid)
        return found
    row, size = torch.cat(list(seen)), _block(seen, grids)
    lengths = [grid.rows * grid.columns * size * size for grid in grids]
    return [
        scaled(_laid(own, grid.rows * size, grid.columns * size), grid.rows, grid.columns)
        for own, grid in zip(torch.split(row, lengths), grids, strict=True)
    ]


def neighbours(config: Any, seen: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
    """All pictures in one row of patches, in which the patches of one token stand side by side (Qwen-VL, GLM-4V)."""
    row, size = torch.cat(list(seen)), _block(seen, grids)
    if size != (side := getattr(config.vision_config, "spatial_merge_size", size)):
        patches, tokens = len(row), sum(grid.rows * grid.columns for grid in grids)
        raise PatchingError(_others(f"{patches} patches", f"{tokens} image tokens of {side * side}"))
    merged = row.reshape(-1, size * size, *row.shape[1:]).mean(1)  # [all tokens, ...]
    return list(torch.split(merged, [grid.rows * grid.columns for grid in grids]))


def pooled(config: Any, seen: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
    """Each grid is one picture, whose patches are pooled in squares and followed by padding (Gemma 4)."""
    size = config.vision_config.pooling_kernel_size
    _check_number(seen, len(grids), least=len(grids))
    return [
        scaled(
            _laid(own[: grid.rows * grid.columns * size**2], grid.rows * size, grid.columns * size),
            grid.rows,
            grid.columns,
        )
        for own, grid in zip(seen, grids, strict=True)
    ]


def tiles(grid: Grid) -> int:
    """Pictures that the tower saw of this grid."""
    return grid.stitched[0] * grid.stitched[1] if grid.stitched else 1


def stitched(seen: Sequence[Tensor], grid: Grid) -> Tensor:
    """[rows * columns, ...] of a grid stitched together from tiles: what is left in its middle, made coarser if it still is."""
    down, across, rows, columns = grid.stitched or (1, 1, grid.rows, grid.columns)
    every = torch.stack([_square(picture) for picture in seen])
    whole = every.view(down, across, *every.shape[1:])  # [down, across, side, side, ...]
    whole = whole.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [down * side, across * side, ...]
    top, left = (whole.shape[0] - rows) // 2, (whole.shape[1] - columns) // 2
    return scaled(whole[top : top + rows, left : left + columns], grid.rows, grid.columns)


def scaled(x: Tensor, rows: int, columns: int) -> Tensor:
    """[rows * columns, ...] of a grid of patches [R, C, ...]: means of equal blocks, or bilinear if they come out uneven."""
    if x.shape[0] % rows == 0 and x.shape[1] % columns == 0:
        x = x.reshape(rows, -1, columns, x.shape[1] // columns, *x.shape[2:]).mean(3).mean(1)
        return x.flatten(0, 1)
    flat = x.flatten(2) if x.dim() > 2 else x[..., None]  # [R, C, c]
    small = interpolate(flat.float().permute(2, 0, 1)[None], size=(rows, columns), mode="bilinear")[0]
    return small.permute(1, 2, 0).reshape(rows * columns, *x.shape[2:]).to(x.dtype)


def _brought(picture: Tensor, grid: Grid) -> Tensor:
    """[rows * columns, ...] of one picture: a square of patches, or one that is a multiple of the grid in both directions."""
    size = round((len(picture) / (grid.rows * grid.columns)) ** 0.5)
    if size * size * grid.rows * grid.columns == len(picture):
        patches = _laid(picture, grid.rows * size, grid.columns * size)
    else:
        patches = _square(picture)
    return scaled(patches, grid.rows, grid.columns)


def _laid(row: Tensor, rows: int, columns: int) -> Tensor:
    return row.reshape(rows, columns, *row.shape[1:])  # [rows, columns, ...]


def _square(picture: Tensor) -> Tensor:
    side = round(len(picture) ** 0.5)
    if side * side != len(picture):
        raise PatchingError(
            f"the vision tower saw a picture of {len(picture)} patches, which are no square, so where they lie is not known. "
            "Let the processor bring the image to the tower's own size, or use a method that does not look into the vision "
            "tower, such as Simignore or DivPrune."
        )
    return _laid(picture, side, side)


def _block(seen: Sequence[Tensor], grids: Sequence[Grid]) -> int:
    """How many patches one token is wide and high."""
    patches, tokens = sum(map(len, seen)), sum(grid.rows * grid.columns for grid in grids)
    size: int = round((patches / max(tokens, 1)) ** 0.5)
    if size * size * tokens != patches:
        raise PatchingError(_others(f"{patches} patches", f"{tokens} image tokens"))
    return size


def _check_number(seen: Sequence[Tensor], most: int, least: int = 1) -> None:
    """Raise where the tower saw other pictures than the prompt's; one row of patches may hold several."""
    if not least <= len(seen) <= most:
        raise PatchingError(_others(f"{len(seen)} pictures", f"{most} of them"))


def _others(saw: str, holds: str) -> str:
    return (
        f"the vision tower saw {saw}, and the prompt holds {holds}, so it ran on other images too. Pass the prompt's images to "
        "the same call, or encode them, and no others, between the call before and the one that they are handed to."
    )
