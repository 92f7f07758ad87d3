"""Sharing a budget out over grids, and cutting a grid into cells: pure functions on small integers, no model in sight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from simignore.types import PAD, Patches


def apportion(total: int, weights: Sequence[float], room: Sequence[int], floor: int = 0) -> list[int]:
    """Whole numbers in proportion to ``weights`` that add up to ``total``, none above its ``room``.

    Everyone first gets ``floor``, or all the room it has, in rounds from the largest weight to the smallest while the total
    lasts. The rest is shared in proportion by largest remainders; what does not fit goes to the others in proportion. Where
    no weight is left above 0, all are equal. Ties go to the first. Counted in fractions, so rounding decides nothing.
    Raises ValueError if there is less room than ``total``.
    """
    if total > sum(room):
        raise ValueError(f"{total} tokens to share out, but there is room for only {sum(room)}; share out fewer")
    given, rest = [0] * len(room), total
    order = sorted(range(len(room)), key=lambda i: -weights[i])
    for turn in range(min(floor, max(room, default=0))):
        lucky = [i for i in order if room[i] > turn][:rest]
        rest -= len(lucky)
        for i in lucky:
            given[i] += 1
    share = [Fraction(weight) for weight in weights]
    while rest := total - sum(given):
        open_ = [i for i in range(len(room)) if given[i] < room[i]]
        share = share if any(share[i] for i in open_) else [Fraction(1)] * len(room)
        sum_ = sum(share[i] for i in open_)
        quota = {i: rest * share[i] / sum_ for i in open_}
        full = [i for i in open_ if quota[i] > room[i] - given[i]]
        for i in full:
            given[i] = room[i]
        if full:
            continue
        for i in open_:
            given[i] += math.floor(quota[i])
        left = total - sum(given)
        for i in sorted(open_, key=lambda i: math.floor(quota[i]) - quota[i])[:left]:
            given[i] += 1
    return given


def cells(row: Tensor, column: Tensor, count: int) -> Tensor:
    """[n] which of ``count`` cells each token belongs to; every cell has at least one token.

    row, column: [n] places of the tokens that are there, in any order; 1 <= count <= n. The rows that have tokens are cut into
    about sqrt(count * rows / columns) bands of equally many rows, the cells shared out over the bands in proportion to their
    tokens, and each band's columns cut evenly; where a band has fewer columns than cells, its tokens column by column.
    """
    row_rank, rows = _ranks(row)
    _, columns = _ranks(column)
    bands = min(rows, count, max(1, math.floor(math.sqrt(count * rows / columns) + 0.5)))
    band = row_rank * bands // rows  # [n]
    sizes = torch.bincount(band, minlength=bands).tolist()
    cell = torch.empty_like(band)
    before = 0
    for number, own in enumerate(apportion(count, sizes, sizes, floor=1)):
        here = band == number
        rank, distinct = _ranks(column[here])
        if distinct < own:
            order = (column[here] * (int(row.max()) + 1) + row[here]).argsort(stable=True)
            rank, distinct = torch.empty_like(order).scatter(0, order, torch.arange(len(order))), len(order)
        cell[here] = before + rank * own // distinct
        before += own
    return cell


def middles(row: Tensor, column: Tensor, cell: Tensor) -> Tensor:
    """[cells] the token of each cell that is nearest to its centre, the mean place of its tokens; ties go to the first."""
    count = int(cell.max()) + 1
    size = torch.bincount(cell, minlength=count)
    distance = torch.zeros_like(cell)
    for place in (row, column):  # times the cell's size, so that all is in whole numbers and ties are ties
        summed = torch.zeros_like(size).scatter_add(0, cell, place)
        distance += (place * size[cell] - summed[cell]) ** 2
    least = torch.full_like(size, torch.iinfo(torch.long).max).scatter_reduce(0, cell, distance, "amin")
    numbers = torch.arange(len(cell))
    near = torch.where(distance == least[cell], numbers, len(cell))
    return torch.full_like(size, len(cell)).scatter_reduce(0, cell, near, "amin")


def partition(patches: Patches, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``counts[b]`` cells over the grids of each sample: (kept [B, N], source [B, N]).

    kept: True for the middle of each cell. source: for every token the middle of its cell; -1 for padding, and for the tokens
    of a grid that gets no cell. Cells are shared out over the grids in proportion to the tokens that are there.
    """
    source = torch.full_like(patches.grid, PAD)
    for b, count in enumerate(counts):
        own = patches.grid[b]
        there = sorted({*own.tolist()} - {PAD})
        members = [(own == number).nonzero()[:, 0] for number in there]
        sizes = [len(tokens) for tokens in members]
        for tokens, share in zip(members, apportion(count, sizes, sizes), strict=True):
            if share:
                row, column = patches.row[b, tokens], patches.column[b, tokens]
                cell = cells(row, column, share)
                source[b, tokens] = tokens[middles(row, column, cell)[cell]]
    return source == torch.arange(source.shape[1]), source


def _ranks(values: Tensor) -> tuple[Tensor, int]:
    """[n] the rank of each value among the different ones, and how many different ones there are."""
    distinct, rank = torch.unique(values, return_inverse=True)
    return rank, len(distinct)
