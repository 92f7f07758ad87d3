"""The tensors that are more than renamed: fused attention, new rows of the vocabulary, and the bias of the head."""

from __future__ import annotations

import torch
from torch import Tensor


def unfuse(fused: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of an early Phi's ``query_key_value``, whose rows go head by head: q, k, v of the first, ...

    fused: [3 * D, ...]. Returns three [D, ...].
    """
    width = fused.shape[0] // 3
    apart = fused.reshape(heads, 3, width // heads, *fused.shape[1:])  # [H, 3, D / H, ...]
    query, key, value = (apart[:, part].reshape(width, *fused.shape[1:]) for part in range(3))  # [D, ...]
    return query, key, value


def grow(weight: Tensor, rows: int) -> Tensor:
    """Embeddings or head [V, D] with further rows up to ``rows``, each the mean of the old ones.

    Why the mean: in the head it gives a new token the mean of all logits, so that it is never the likeliest one. As an
    embedding of ``<image>`` it is never read: image features take its place.
    """
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)  # [1, D]
    return torch.cat([weight, mean.expand(rows - weight.shape[0], -1)])  # [rows, D]


def fold_bias(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A head without bias and a final LayerNorm that together give the logits of a head that has one.

    Why it works: a LayerNorm gives ``scale * n + shift`` where the entries of ``n`` sum to zero. So a number u that is
    added to a whole row of the head changes its logit by u * sum(n) = 0, until the shift is made one: then it adds
    u * D. With M = weight * scale and scale' = shift' = 1, the head M + u gives M n + sum(M) + D u, and
    u = (weight @ shift + bias - sum(M)) / D makes that the old logit. Exact up to rounding, for every hidden state;
    in half precision that is about one and a half times the rounding of the old head (random weights of Phi-2's sizes).
    Needed because LlavaForConditionalGeneration has no bias in its head, and Phi does.

    weight: [V, D]. bias: [V]. scale, shift: [D]. Returns weight [V, D], scale and shift in the dtype they came in.
    """
    wide, moved = scale.double(), shift.double()
    blocks = []
    for first in range(0, len(weight), 8192):  # so that few rows are held in float64
        rows, own = weight[first : first + 8192], bias[first : first + 8192]
        matrix = rows.double() * wide  # [rows, D]
        constant = (rows.double() @ moved + own.double() - matrix.sum(1)) / len(scale)  # [rows]
        blocks.append((matrix + constant[:, None]).to(weight.dtype))
    return torch.cat(blocks), torch.ones_like(scale), torch.ones_like(shift)
