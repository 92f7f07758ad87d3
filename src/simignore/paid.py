"""Attention as a vision tower pays it, after softmax and without a map of S x S: pure functions, no model in sight."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 256  # queries whose attention is held at once


def class_attention(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None, place: int = 0) -> Tensor:
    """[B, S] attention that the class token, at ``place``, pays to each key: after softmax, mean over heads, in float32."""
    row = slice(place, place + 1)
    part = None if mask is None or mask.dim() < 4 else mask[:, :, row]
    return _paid(query[:, :, row], key, part, scaling)[:, :, 0].mean(1)


def received(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """[B, S] attention that each key receives: after softmax, mean over heads and over the queries that may look at it.

    query: [B, H, q, d], key: [B, H, S, d], taken in chunks of queries, in float32. mask: [B, 1, q, S] boolean or additive, None
    where every query looks at every key. Queries that may not look at themselves are padding and do not count.
    """
    total = key.new_zeros(key.shape[0], key.shape[2], dtype=torch.float32)
    counted = torch.zeros_like(total)
    for start in range(0, query.shape[2], CHUNK):
        rows = slice(start, start + CHUNK)
        part = None if mask is None or mask.dim() < 4 else mask[:, :, rows]
        paid = _paid(query[:, :, rows], key, part, scaling).mean(1)  # [B, chunk, S]
        looks = torch.ones_like(paid) if part is None else _allowed(part).mean(1, dtype=paid.dtype).expand_as(paid)
        own = looks.diagonal(start, dim1=1, dim2=2)[..., None]  # [B, chunk, 1]
        total += (paid * own).sum(1)
        counted += (looks * own).sum(1)
    return total / counted.clamp(min=1)


def _paid(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """[B, H, q, S] attention after softmax, in float32."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits = (query.float() @ key.float().transpose(2, 3)) * scale
    if mask is not None:
        logits = logits.masked_fill(~_allowed(mask), torch.finfo(torch.float32).min)
    return logits.softmax(-1)


def _allowed(mask: Tensor) -> Tensor:
    """A mask as booleans, True = may look."""
    return mask if mask.dtype == torch.bool else mask > -1
