"""Matching tokens by the cosine of their keys or features: pure functions, no model in sight.

Everything runs on the device of its tensors and waits for it nowhere but in :func:`fetched`; how many tokens take part is
known on the host. Similarities are computed in blocks of rows, never N x N at once, in float32 or better. Of equal values the
one that comes first in reading order wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from simignore.merge import shares
from simignore.types import PAD, Blend, Selection

CHUNK = 1024  # rows of similarities held at once


def fetched(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one device on the host, brought there in a single transfer, each bit as it was."""
    raw = [x.contiguous().flatten().view(torch.uint8) for x in tensors]
    parts = torch.split(torch.cat(raw).cpu(), [len(x) for x in raw])
    return [part.clone().view(x.dtype).view(x.shape) for part, x in zip(parts, tensors, strict=True)]


def sent(numbers: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Numbers known on the host as a tensor on the device, without waiting for the device."""
    return torch.tensor(numbers).to(device, non_blocking=True)


def exact(x: Tensor, valid: Tensor) -> Tensor:
    """``x`` [B, N, ...] in float32 or better, with zeros in the padding, whatever stood there."""
    blank = ~valid.view(*valid.shape, *(1,) * (x.dim() - 2))
    return x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(blank, 0)


def unit(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B, N, C] scaled to length 1 (zero vectors stay zero), and [B, N] True for real tokens that hold NaN."""
    found = normalize(exact(x, valid), dim=-1)
    return found, found.isnan().any(-1)


def refuse(broken: Tensor, what: str) -> None:
    """Raise ValueError if a token of ``broken`` [B, N], on the host, is marked."""
    if bool(broken.any()):
        sample, token = broken.nonzero()[0].tolist()
        raise ValueError(
            f"the {what} of image token {token} in sample {sample} hold NaN or infinity; look for an overflow on the way, such "
            "as float16 in a model that was trained in bfloat16"
        )


def ranks(score: Tensor, valid: Tensor) -> Tensor:
    """[B, N] the place of each token by falling score, 0 for the best; padding comes last."""
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    score = score.clamp(min=torch.finfo(score.dtype).min).masked_fill(~valid, -torch.inf)
    order = score.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)


def places(marked: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The marked tokens [B, N] of each sample, in reading order: [B, width] their numbers, and True where there is one."""
    order = torch.argsort((~marked).to(torch.uint8), dim=1, stable=True)[:, :width]
    return order, marked.gather(1, order)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """The tokens [B, K] of ``x`` [B, N, C]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))  # [B, K, C]


def strided(free: Tensor, sizes: Sequence[int], amounts: Sequence[int]) -> Tensor:
    """[B, N] True for ``amounts[b]`` of the ``sizes[b]`` tokens that ``free`` marks: the first and from there every s-th in
    reading order, s = sizes[b] // amounts[b]."""
    step = sent(
        [max(1, size // amount) if amount else 1 for size, amount in zip(sizes, amounts, strict=True)], free.device
    )
    place = free.cumsum(1) - 1
    wanted = sent(amounts, free.device)[:, None]
    return free & (place % step[:, None] == 0) & (place // step[:, None] < wanted)


def best(rows: Tensor, columns: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """For every row [B, R, C] the column [B, K, C] of the largest product among those that are ``there`` [B, K], K >= 1:
    the product (minus infinity where none is) and which column it is, both [B, R]."""
    across, found = columns.transpose(1, 2), []
    with torch.autocast(rows.device.type, enabled=False):
        for start in range(0, max(rows.shape[1], 1), CHUNK):
            near = rows[:, start : start + CHUNK] @ across  # [B, chunk, K]
            found.append(near.masked_fill(~there[:, None], -torch.inf).max(-1))
    return torch.cat([x.values for x in found], 1), torch.cat([x.indices for x in found], 1)


def closest(units: Tensor, kept: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """For every token of ``units`` [B, N, C] the one of the largest cosine among those that ``kept`` [B, N] marks, at most
    ``width`` of a sample: the cosine and the token, both [B, N]; where nothing is kept minus infinity and -1."""
    order, there = places(kept, width)
    if order.shape[1] == 0:
        return torch.full(kept.shape, -torch.inf, device=kept.device), torch.full(kept.shape, PAD, device=kept.device)
    cosine, which = best(units, pick(units, order), there)
    return cosine, order.gather(1, which).masked_fill(cosine == -torch.inf, PAD)


def absorbed(chosen: Selection, keys: Tensor, valid: Tensor, count: int) -> Selection:
    """``chosen`` with each kept token replaced by the mean of itself and its ``count`` nearest dropped tokens (fewer where
    there are no more), weighted by the scores; equally where those of a group are all zero. A dropped token may go into
    several; its source is the nearest of them.

    chosen: with scores that are not negative. keys: [B, N, C], nearest by cosine; valid: [B, N]; both on the device.
    """
    if chosen.score is None:
        raise ValueError("tokens are weighted by the scores of the selection, and it has none")
    score = chosen.score.to(torch.promote_types(chosen.score.dtype, torch.float32))
    gone = ~score.isnan() & ~chosen.kept  # [B, N]; padding has no score
    width = min(count, int(gone.sum(1).max()) if gone.numel() else 0)
    if width == 0:
        return chosen
    units, broken = unit(keys, valid)
    own = chosen.index.clamp(min=0).to(units.device, non_blocking=True)
    free = gone.to(units.device, non_blocking=True)
    cosine, origin, broken = fetched(*_nearest(pick(units, own), units, free, width), broken)
    refuse(broken, "keys")
    cosine = cosine.masked_fill(~chosen.valid[..., None], -torch.inf)  # [B, K, width]
    blend = _weighted(chosen.index, origin.masked_fill(cosine == -torch.inf, PAD), score)
    return replace(chosen, source=_sources(chosen, cosine, origin), blend=blend)


def _nearest(rows: Tensor, units: Tensor, free: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` tokens of the largest cosine to each row among those that are free: cosines and tokens [B, K, width]."""
    across, found = units.transpose(1, 2), []
    with torch.autocast(rows.device.type, enabled=False):
        for start in range(0, rows.shape[1], CHUNK):
            near = (rows[:, start : start + CHUNK] @ across).masked_fill(~free[:, None], -torch.inf)  # [B, chunk, N]
            value, order = near.sort(dim=-1, descending=True, stable=True)
            # copies, for a slice would keep all N columns of its chunk in memory
            found.append((value[..., :width].clone(), order[..., :width].clone()))
    return torch.cat([value for value, _ in found], 1), torch.cat([order for _, order in found], 1)


def _weighted(index: Tensor, origin: Tensor, weight: Tensor) -> Blend:
    """The blend of every kept token [B, K] with what it absorbs [B, K, width], -1 for nothing; weight: [B, N]."""
    absorbing = (origin != PAD).any(2, keepdim=True)  # [B, K, 1]
    members = torch.cat([index[..., None].masked_fill(~absorbing, PAD), origin], 2)  # [B, K, 1 + width]
    weight = weight / weight.nan_to_num().amax(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    share = weight.gather(1, members.clamp(min=0).flatten(1)).view(members.shape).masked_fill(members == PAD, 0)
    share = torch.where(share.sum(2, keepdim=True) > 0, share, 1.0)  # nobody looked at any of them: a plain mean
    target = index[..., None].expand_as(members).masked_fill(members == PAD, PAD)
    return shares(target.flatten(1), members.flatten(1), share.flatten(1))


def _sources(chosen: Selection, cosine: Tensor, origin: Tensor) -> Tensor:
    """The source map in which every absorbed token names the nearest of those that absorb it."""
    b, n = chosen.source.shape
    target = chosen.index[..., None].expand_as(origin).flatten(1)  # [B, E]
    near, taken = cosine.flatten(1), origin.flatten(1)
    rank = ranks(near, near != -torch.inf)
    rank = rank.masked_fill(near == -torch.inf, near.shape[1])
    first = torch.full((b, n), near.shape[1]).scatter_reduce(1, taken, rank, "amin")  # [B, N] best entry of each token
    by_rank = torch.full((b, near.shape[1] + 1), PAD).scatter(1, rank, target)
    by_rank[:, -1] = PAD
    return torch.where(first < near.shape[1], by_rank.gather(1, first), chosen.source)
