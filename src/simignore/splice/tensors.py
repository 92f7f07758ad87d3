"""The surgery itself as pure functions on tensors: no model, no hook, no state.

A cut is told by ``rows`` [B, Q]: which places of the incoming sequence stay, in order, with -1 (``PAD``) on the left of
samples that keep fewer. Padding goes left because generation reads the last column.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simignore.types import PAD


def pack(stays: Tensor) -> Tensor:
    """[B, T] booleans -> rows [B, Q]: the places that are True, in order, left-padded with -1 to the longest sample."""
    longest = int(stays.sum(1).max()) if stays.numel() else 0
    order = torch.argsort(stays.to(torch.uint8), dim=1, stable=True)  # those that go first, then those that stay
    rows = order[:, stays.shape[1] - longest :]  # [B, Q]
    return rows.masked_fill(~stays.gather(1, rows), PAD)


def take(x: Tensor, rows: Tensor, dim: int = 1) -> Tensor:
    """The given rows of ``x`` along ``dim``; batch is dim 0. Padding repeats place 0, and the caller has to mask it."""
    index = rows.clamp(min=0).to(x.device)
    if x.shape[0] != index.shape[0]:
        x = x.expand(index.shape[0], *x.shape[1:])
    if dim == 1:  # whole rows are copied at once; `gather` would read an index for every single number
        start = torch.arange(index.shape[0], device=x.device)[:, None] * x.shape[1]
        return x.flatten(0, 1).index_select(0, (index + start).flatten()).view(*index.shape, *x.shape[2:])
    shape = [1] * x.dim()
    shape[0], shape[dim] = index.shape
    size = list(x.shape)
    size[dim] = index.shape[1]
    return x.gather(dim, index.view(shape).expand(size))


def put(x: Tensor, rows: Tensor, length: int) -> Tensor:
    """Undo :func:`take` on [B, Q, ...]: [B, length, ...] with the rows back in their old places, zeros elsewhere."""
    rows = rows.to(x.device)
    index = torch.where(rows == PAD, length, rows)  # padding is written to one extra place and cut off
    full = x.new_zeros(x.shape[0], length + 1, *x.shape[2:])
    full[torch.arange(index.shape[0], device=x.device)[:, None], index] = x
    return full[:, :length]


def take_places(x: Tensor, rows: Tensor, dim: int) -> Tensor:
    """:func:`take` where the places are in dimension ``dim`` (negative) and the batch in the one before it; dimensions in
    front of those, such as the three parts of M-RoPE positions, are taken one by one."""
    if x.dim() + dim > 1:
        return torch.stack([take_places(part, rows, dim) for part in x])
    return take(x, rows)


def cut_mask(
    mask: Tensor | None, rows: Tensor, columns: Tensor, seen: Tensor, dense: bool, missing: int = 0
) -> Tensor | None:
    """The attention mask of a shortened sequence from that of the long one.

    mask: the long one as the model made it: [B or 1, H or 1, q, kv] boolean (True = may look) or additive, [B, kv] as
        flash attention has it, or None, which stands for plain causal attention without padding.
    rows: [B, Q] which of the q new places stay. columns: [B, P] which of the kv places each short place was.
    seen: [B, P] False for padding and hidden tokens. dense: True if ``seen`` is known to be True throughout.
    missing: how many columns the long mask lacks on the left, as one of a sliding window does; they are hidden.
    """
    q, p = rows.shape[1], columns.shape[1]
    if mask is None:
        if dense and (q == 1 or q == p):
            return None
        causal = torch.ones(q, p, dtype=torch.bool, device=seen.device).tril(p - q)  # [Q, P]
        return (causal & seen[:, None])[:, None]  # [B, 1, Q, P]
    seen = seen.to(mask.device)
    if missing:
        columns = columns - missing
        seen, dense = seen & (columns >= 0).to(seen.device), False
    if mask.dim() == 2:
        return take(mask, columns) * seen.to(mask.dtype)  # [B, P]
    short = take(take(mask, rows, dim=2), columns, dim=3)  # [B, H, Q, P]
    hidden = ~seen[:, None, None]
    return short & ~hidden if mask.dtype == torch.bool else short.masked_fill(hidden, torch.finfo(mask.dtype).min)


def shift(positions: Tensor, gone: Tensor) -> Tensor:
    """Position ids closed up over what left before them: positions [B, Q] minus gone [B, Q] or [B, 1]."""
    return (positions - gone.to(positions.device)).clamp(min=0)


def count_before(gone: Tensor) -> Tensor:
    """[B, T] booleans -> [B, T] how many are True strictly before each place."""
    return gone.long().cumsum(1) - gone.long()


def like_tuple(value: Any, change: Any) -> Any:
    """Apply ``change`` to a tensor or to each tensor of a tuple, such as rotary (cos, sin)."""
    return tuple(change(part) for part in value) if isinstance(value, tuple) else change(value)
