"""Greedy choices of tokens that are unlike each other: pure functions, no model in sight.

Batches are chosen together, step by step, with running vectors and never an N x N matrix; nothing here waits for the device,
for how many tokens to choose is known on the host. Of equal gains the token that comes first in reading order wins, and gains
that differ by no more than rounding are equal, so that neighbours in a batch do not decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from simignore.matching import fetched, refuse
from simignore.select import by_order, check_numbers
from simignore.types import Selection, View

How = Literal["dpp", "max-min"]
CHUNK = 512  # rows of similarities held at once
NONE = -1e4  # the log of quality 0
GONE = -1e30  # the gain of what is chosen already, or is padding
SLACK = 1e-5  # differences of gains that are rounding


def diverse(
    view: View, score: Tensor, features: Tensor, counts: Sequence[int], how: How = "dpp", sharpness: float = 1.0
) -> Selection:
    """The selection of ``counts[b]`` tokens by scores [B, N] and by how unlike their features [B, N, D] are.

    how: "dpp" (:func:`dpp`) or "max-min" (:func:`max_min`), with the scores between 0 and 1, to the power ``sharpness``, as
    quality or weight. Raises ValueError where scores or features are not numbers.
    """
    quality = levelled(score.to(features.device), view.valid) ** sharpness
    order, told = arranged(view, score, features, quality, max(counts, default=0), how)
    return by_order(order, view.real, counts, told)


def arranged(
    view: View, score: Tensor, features: Tensor, quality: Tensor, count: int, how: How = "dpp"
) -> tuple[Tensor, Tensor]:
    """The ``count`` tokens [B, count] that are chosen first by quality [B, N] and by how unlike their features [B, N, D] are,
    and the scores [B, N] by which quality was told, both on the host, for which the device is waited for once.

    Tokens of quality 0 follow all others. Raises ValueError where scores or features are not numbers.
    """
    unit = units(features, view.valid)
    order = dpp(unit, quality, view.valid, count) if how == "dpp" else max_min(unit, view.valid, count, quality)
    order, told, broken = fetched(order, score.to(quality.device, quality.dtype), unit.isnan().any(-1))
    check_numbers(told, view.real)
    refuse(broken, "features")
    return order, told


def both(first: Tensor, second: Tensor, valid: Tensor, weight: float) -> Tensor:
    """[B, N] the weighted geometric mean of two scores, each between 0 and 1 per sample."""
    one, other = levelled(first, valid), levelled(second, valid)
    return one ** (1 - weight) * other**weight


def units(features: Tensor, valid: Tensor) -> Tensor:
    """[B, N, D] in float32 or better, of length 1 (zero vectors stay zero), zeros in the padding."""
    exact = features.to(torch.promote_types(features.dtype, torch.float32))
    return normalize(exact.masked_fill(~valid[..., None], 0), dim=-1)


def max_min(unit: Tensor, valid: Tensor, count: int, weight: Tensor | None = None) -> Tensor:
    """[B, count] tokens in the order in which greedy max-min chooses them by cosine distance.

    First the token whose nearest neighbour is farthest, then each time the one whose nearest chosen token is farthest. With
    ``weight`` [B, N] >= 0 the first is the heaviest, and distances are multiplied by it. unit: :func:`units`.
    Samples with fewer than ``count`` tokens name others at the end of their rows, to be ignored.
    """
    with torch.autocast(unit.device.type, enabled=False):
        first = _loneliest(unit, valid) if weight is None else weight.masked_fill(~valid, GONE)
        gone = torch.where(valid, 0.0, GONE).to(unit.dtype)
        scale = torch.ones_like(gone) if weight is None else weight.to(unit.dtype).masked_fill(~valid, 0)
        chosen = _first_best(first)  # [B, 1]
        order = [chosen]
        near = torch.full_like(gone, -2.0)  # [B, N] the largest cosine to a chosen token
        for _ in range(count - 1):
            gone = gone.scatter(1, chosen, GONE)
            near = torch.maximum(near, _cosine(unit, chosen))
            chosen = _first_best(torch.addcmul(gone, 1 - near, scale))
            order.append(chosen)
    return torch.cat(order, 1)


def dpp(unit: Tensor, quality: Tensor, valid: Tensor, count: int) -> Tensor:
    """[B, count] tokens in the order in which greedy MAP inference of a determinantal point process chooses them.

    The kernel is L = diag(q) S diag(q) with S the cosines of ``unit`` (:func:`units`) and q = ``quality`` [B, N] >= 0. Each
    step takes the token that raises det(L of the chosen) most: the one with the largest rest d_i^2 = L_ii - |c_i|^2, where c_i
    is its row of the Cholesky factor; every choice adds one number to each row, so [B, count, N] numbers are held.
    Where nothing raises the determinant any more (as many chosen as there are dimensions, or quality 0), tokens follow by
    their quality, then in reading order. Samples with fewer than ``count`` tokens name others at the end of their rows.
    Source: Chen, Zhang and Zhou, NeurIPS 2018 (arXiv 1709.05135).
    """
    b, n, _ = unit.shape
    with torch.autocast(unit.device.type, enabled=False):
        q = quality.to(unit.dtype).masked_fill(~valid, 0)
        rest = q * q * unit.square().sum(-1)  # [B, N] d^2
        floor = 1e-6 * rest.amax(1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny)
        # what follows when nothing is gained: below every gain, by quality, also where that is tiny; 0 last
        after = (q / q.amax(1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)).log().clamp(min=NONE) - 1
        after = after.masked_fill(~valid, GONE)
        scaled = unit * q[..., None]
        rows = unit.new_zeros(b, count, n)  # the Cholesky factor, a row for each choice
        order = []
        for step in range(count):
            chosen = _first_best(torch.where(rest > floor, rest, after))  # [B, 1]
            order.append(chosen)
            left = rest.gather(1, chosen)  # [B, 1]
            row = _cosine(scaled, chosen)
            if step:
                own = rows[:, :step].gather(2, chosen[:, :, None].expand(-1, step, 1))  # [B, step, 1]
                row = torch.baddbmm(row[:, None], own.transpose(1, 2), rows[:, :step], alpha=-1)[:, 0]
            row = torch.where(left > floor, row * left.clamp(min=1e-30).rsqrt(), 0)
            rows[:, step] = row
            rest = (rest - row * row).scatter(1, chosen, 0)
            after = after.scatter(1, chosen, GONE)
    return torch.cat(order, 1)


def levelled(score: Tensor, valid: Tensor, groups: Tensor | None = None) -> Tensor:
    """[B, N] scores between 0 (the sample's lowest) and 1 (its highest); all 1 where they are equal, 0 in the padding.

    groups: [B, N] numbers from 0 on, such as the image of each token: each group is levelled by itself.
    """
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    count = 1 if groups is None or not groups.numel() else max(0, int(groups.max())) + 1  # places are on the host
    groups = torch.zeros_like(valid, dtype=torch.long) if groups is None else groups.to(score.device).clamp(min=0)
    shape = len(score), count + 1
    index = torch.where(valid & score.isfinite(), groups, count)  # infinite ones set no bound
    low = score.new_full(shape, torch.inf).scatter_reduce(1, index, score, "amin")[:, :-1].gather(1, groups)
    high = score.new_full(shape, -torch.inf).scatter_reduce(1, index, score, "amax")[:, :-1].gather(1, groups)
    level = ((score.clamp(low, high) - low) / (high - low)).masked_fill(high <= low, 1.0)
    return torch.where(score.isnan(), score, level).masked_fill(~valid, 0)


def _first_best(gain: Tensor) -> Tensor:
    """[B, 1] the first token whose gain is the largest, but for rounding."""
    top = gain.amax(1, keepdim=True)
    return (gain >= top - SLACK * top.abs()).to(torch.uint8).argmax(1, keepdim=True)


def _cosine(unit: Tensor, chosen: Tensor) -> Tensor:
    """[B, N] product of every token with the chosen one of its sample, [B, 1]."""
    if len(unit) == 1:
        return torch.mv(unit[0], unit[0].index_select(0, chosen[0])[0])[None]
    row = unit.gather(1, chosen[..., None].expand(-1, 1, unit.shape[-1]))  # [B, 1, D]
    return torch.bmm(unit, row.transpose(1, 2))[..., 0]


def _loneliest(unit: Tensor, valid: Tensor) -> Tensor:
    """[B, N] the distance of each token to its nearest neighbour; the token itself does not count."""
    n = unit.shape[1]
    places = torch.arange(n, device=unit.device)
    found = []
    for start in range(0, n, CHUNK):
        cosine = unit[:, start : start + CHUNK] @ unit.transpose(1, 2)  # [B, chunk, N]
        itself = places[start : start + CHUNK, None] == places
        cosine = cosine.masked_fill(itself | ~valid[:, None], -torch.inf)
        found.append(1 - cosine.amax(-1))
    return torch.cat(found, 1).masked_fill(~valid, GONE)
