"""How likely an answer stays when only some image tokens do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from simignore.flow.capture import evaluating
from simignore.flow.copies import TOKENS, Forced, log_probability
from simignore.flow.given import Given

WIDE = 4  # times as many tokens may enter and leave the decoder as run through it: there one state of each is held, not many


def likely(prompt: Forced, kept: Tensor, *, layer: int | float | None = None, tokens: int = TOKENS) -> Tensor:
    """[S] the mean log-probability of an answer token under each of S sets of image tokens, in nats, float32, on the host.

    The answer is told (teacher forcing): each of its tokens is judged behind the ones before. Sets of one size run as one batch
    as far as ``tokens`` goes, and equal sets run once.

    prompt: see :func:`~simignore.flow.copies.forced`. kept: [S, N] bool, the image tokens that stay; also none.
    layer: where the others are dropped: None before the decoder, else before that decoder layer.
    tokens: how many may be in the decoder at once. Raises ValueError for sets of another shape.
    """
    count = len(prompt.image)
    if kept.dtype != torch.bool or kept.dim() != 2 or kept.shape[1] != count:
        raise ValueError(
            f"sets of image tokens have shape {tuple(kept.shape)} and type {kept.dtype}; the prompt has {count} image tokens, "
            f"so pass bool [S, {count}]"
        )
    sets, which = torch.unique(kept.cpu(), dim=0, return_inverse=True)
    order = sets.sum(1).argsort(descending=True, stable=True)
    sets = sets[order]
    gone = (count - sets.sum(1)) if layer is None else torch.zeros(len(sets), dtype=torch.long)  # [S]
    found = torch.empty(len(sets))
    with evaluating(prompt.parts.model):
        for own in _groups((prompt.length - gone).tolist(), tokens, max(1, WIDE * tokens // prompt.length)):
            with Given.mask(sets[own], layer)(prompt.parts.model):
                found[order[own]] = log_probability(prompt, len(sets[own]))
    return found[which]


def _groups(lengths: Sequence[int], tokens: int, most: int) -> Iterator[slice]:
    """Neighbours that fit together, of falling lengths: ``most`` or fewer, and padded to the longest at most ``tokens``."""
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or end - start == most or (end + 1 - start) * lengths[start] > tokens:
            yield slice(start, end)
            start = end


__all__ = ["likely"]
