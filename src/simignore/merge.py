"""Averaging dropped tokens into kept ones: pure functions, no model in sight.

Which token goes where is a source map [B, N] as in :class:`~simignore.types.Selection`; how much of it is a
:class:`~simignore.types.Blend`. Nothing here holds an N x N matrix.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from simignore.types import PAD, Blend, Selection


def averaged(chosen: Selection, source: Tensor, weight: Tensor | None = None) -> Selection:
    """``chosen`` with each dropped token merged into the kept one that ``source`` [B, N] names (-1: into none).

    weight: [B, N] how much each token counts in its group's mean; None: all the same.
    """
    source = source.cpu()
    gone = (source != PAD) & ~chosen.kept.cpu()  # [B, N] tokens that go into another
    if not bool(gone.any()):
        return chosen
    b, n = source.shape
    origin = torch.arange(n).expand(b, n)
    absorbing = torch.zeros(b, n + 1, dtype=torch.bool).scatter(1, torch.where(gone, source, n), True)[:, :n]
    mine = gone | absorbing  # tokens that are in a group of more than one
    share = torch.ones(b, n) if weight is None else weight.float()
    target = torch.where(mine, source, PAD)
    return replace(chosen, source=source, blend=shares(target, torch.where(mine, origin, PAD), share))


def shares(target: Tensor, origin: Tensor, weight: Tensor) -> Blend:
    """The blend whose entries [B, E] have these weights, divided by the sum of their target's."""
    there = (target != PAD).to(weight.device)
    weight = weight.masked_fill(~there, 0)
    slot = target.clamp(min=0).to(weight.device)
    width = int(target.max()) + 1 if target.numel() else 0
    total = weight.new_zeros(target.shape[0], max(width, 1)).scatter_add(1, slot, weight)  # [B, N]
    return Blend(target, origin, weight / total.gather(1, slot).clamp(min=torch.finfo(weight.dtype).tiny))


def blended(x: Tensor, blend: Blend) -> Tensor:
    """``x`` [B, N, D] after the blend: each target holds the weighted sum of its origins."""
    target, origin = blend.target.to(x.device), blend.origin.to(x.device)
    there = target != PAD
    rows = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    flat = x.flatten(0, 1)
    exact = torch.promote_types(x.dtype, torch.float32)
    value = flat.index_select(0, (rows + origin.clamp(min=0)).flatten()).to(exact)  # [B*E, D]
    value = value * (blend.weight.to(x.device, exact) * there).flatten()[:, None]
    slot = (rows + target.clamp(min=0)).flatten()
    summed = torch.zeros(flat.shape, dtype=exact, device=x.device).index_add(0, slot, value)
    taking = torch.zeros(flat.shape[0], device=x.device).index_add(0, slot, there.flatten().float()) > 0
    return torch.where(taking[:, None], summed.to(x.dtype), flat).view(x.shape)
