"""Scores -> Selection: pure functions, no model in sight.

Every function takes scores [B, N] (higher = keep) with ``valid`` [B, N] marking real tokens, and treats each sample by
itself. Ties go to the token that comes first in reading order. Scores that are not numbers are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from simignore.types import PAD, Selection


def check_keep(keep: Any) -> int | float:
    """``keep`` as a count (int >= 1) or a fraction (float in (0, 1]), numpy's numbers included; raises for anything else."""
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise TypeError(f"keep={keep!r} is neither a count nor a fraction; say keep=64 or keep=0.25")
    if isinstance(keep, Integral):
        if keep < 1:
            raise ValueError(f"keep={keep} would keep no image token; keep at least 1")
        return int(keep)
    fraction = float(keep)
    if not 0 < fraction <= 1:
        hint = f"; for a count write keep={round(fraction)}" if fraction > 1 and math.isfinite(fraction) else ""
        raise ValueError(f"keep={keep} is not a fraction in (0, 1]{hint}")
    return fraction


def check_count(name: str, value: Any, least: int) -> int:
    """A hyper-parameter that must be a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """A hyper-parameter that must be a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is not a finite number")
    return float(value)


def budget(keep: int | float, tokens: int) -> int:
    """How many of ``tokens`` image tokens stay: the count itself, or the fraction rounded half up, but at least one.

    Raises ValueError if a count is larger than the tokens there are; a sample without image tokens keeps none.
    """
    keep = check_keep(keep)
    if tokens == 0:
        return 0
    if isinstance(keep, int):
        if keep > tokens:
            raise ValueError(
                f"keep={keep} image tokens, but there are only {tokens} to choose among; use a smaller count or a fraction"
            )
        return keep
    return min(tokens, max(1, math.floor(keep * tokens + 0.5)))


def top_k(score: Tensor, valid: Tensor, keep: int | float) -> Selection:
    """The ``keep`` tokens of each sample with the highest scores."""
    score = _checked(score, valid)
    counts = [budget(keep, tokens) for tokens in valid.sum(1).tolist()]
    return _best(score, valid, counts)


def threshold(score: Tensor, valid: Tensor, at_least: float, cap: int | float | None = None) -> Selection:
    """The tokens with a score of ``at_least``, at most ``cap`` of them, and always the best one.

    A sample in which nothing reaches the threshold keeps its best token, and the selection's notes say so.
    """
    score = _checked(score, valid)
    reached = ((score >= at_least) & valid).sum(1).tolist()
    tokens = valid.sum(1).tolist()
    counts = [min(max(r, 1), n) for r, n in zip(reached, tokens, strict=True)]
    if cap is not None:
        # a count larger than the sample is no error here: it only says "no more than"
        counts = [
            min(c, n if isinstance(cap, int) and cap > n else budget(cap, n))
            for c, n in zip(counts, tokens, strict=True)
        ]
    chosen = _best(score, valid, counts)
    notes = tuple(
        f"no image token reached the threshold {at_least:g}; the best one stayed" if n and not r else ""
        for r, n in zip(reached, tokens, strict=True)
    )
    return Selection(chosen.index, chosen.source, chosen.score, notes)


def walk(
    pairs: Tensor, valid: Tensor, text_valid: Tensor, keep: int | float, skip: int = 0, stride: int = 1
) -> Selection:
    """The published walk over image-text pairs: by falling similarity, from pair ``skip`` in steps of ``stride``, each
    token met for the first time stays, until ``keep`` have. Tokens that the walk never meets follow by their best pair.

    pairs: [B, N, M] similarity of every image token with every text token. With skip 0 and stride 1 this is the top-k of
    each token's best pair. Source: the code published with arXiv 2412.09817; equal pairs go in row-major order.
    """
    b, n, m = pairs.shape
    real = valid[:, :, None] & text_valid[:, None]  # [B, N, M]
    _check_numbers(pairs, real)
    flat = pairs.masked_fill(~real, -math.inf).flatten(1)  # [B, N*M]
    order = flat.argsort(dim=1, descending=True, stable=True)  # [B, N*M] pairs by falling similarity
    rank = torch.arange(n * m, device=pairs.device)
    met = (rank >= skip) & ((rank - skip) % stride == 0)
    never = n * m
    # the rank at which the walk meets each token; tokens that it never meets come after all others, best pair first
    token = order // m  # [B, N*M]
    first = torch.full((b, n), 2 * never, device=pairs.device)
    first.scatter_reduce_(1, token, torch.where(met, rank, never + rank).expand(b, -1), "amin")
    best = pairs.masked_fill(~real, -math.inf).amax(2)  # [B, N] for the picture
    chosen = top_k((-first).double(), valid, keep)
    return Selection(chosen.index, chosen.source, best.masked_fill(~valid, math.nan))


def from_kept(kept: Tensor, score: Tensor | None = None, notes: Sequence[str] = ()) -> Selection:
    """The selection that keeps the tokens marked True in ``kept`` [B, N] and drops the others."""
    longest = int(kept.sum(1).max()) if kept.numel() else 0
    places = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    order = torch.argsort((~kept).to(torch.uint8), dim=1, stable=True)[:, :longest]  # [B, K] kept ones first, in order
    index = torch.where(kept.gather(1, order), order, PAD)
    return Selection(index, torch.where(kept, places, PAD), score, tuple(notes))


def identity(valid: Tensor) -> Selection:
    """The selection that keeps every real token."""
    return from_kept(valid)


def lift(inner: Selection, among: Tensor, tokens: int) -> Selection:
    """Renumber a selection made among some tokens: ``among`` [B, N'] are their numbers (-1 padding) out of ``tokens``."""
    index = torch.where(inner.valid, among.gather(1, inner.index.clamp(min=0)), PAD)
    source = torch.where(inner.source != PAD, among.gather(1, inner.source.clamp(min=0)), PAD)
    real = among != PAD
    where = torch.where(real, among, tokens)  # padding is written to one extra place and cut off
    full = torch.full((among.shape[0], tokens + 1), PAD, dtype=source.dtype, device=source.device)
    full = full.scatter(1, where, source)[:, :tokens]
    score = None
    if inner.score is not None:
        score = torch.full((among.shape[0], tokens + 1), math.nan, dtype=inner.score.dtype, device=inner.score.device)
        score = score.scatter(1, where, inner.score)[:, :tokens]
    return Selection(index, full, score, inner.notes)


def compose(first: Selection, second: Selection) -> Selection:
    """One selection for two cuts in a row, both numbered alike. The score is that of the first, which saw more tokens."""
    step = first.source
    source = torch.where(step != PAD, second.source.gather(1, step.clamp(min=0)), PAD)
    return Selection(second.index, source, first.score if first.score is not None else second.score)


def _checked(score: Tensor, valid: Tensor) -> Tensor:
    if score.shape != valid.shape:
        raise ValueError(
            f"scores have shape {tuple(score.shape)}, the image tokens {tuple(valid.shape)}; one score per token"
        )
    score = score if score.is_floating_point() else score.double()
    _check_numbers(score, valid)
    return score


def _check_numbers(score: Tensor, valid: Tensor) -> None:
    if bool((score.isnan() & valid).any()):
        raise ValueError("a score is not a number (NaN): the features hold NaN, or a method divided by zero")


def _best(score: Tensor, valid: Tensor, counts: Sequence[int]) -> Selection:
    """The ``counts[b]`` best tokens of each sample, in reading order."""
    order = score.masked_fill(~valid, -math.inf).argsort(dim=1, descending=True, stable=True)
    order = _real_first(order, valid)
    rank = torch.arange(score.shape[1], device=score.device)
    wanted = rank < torch.tensor(counts, device=score.device)[:, None]  # [B, N] by rank
    kept = torch.zeros_like(valid).scatter(1, order, wanted) & valid
    return from_kept(kept, score.masked_fill(~valid, math.nan))


def _real_first(order: Tensor, valid: Tensor) -> Tensor:
    """Move padding behind real tokens whose score is minus infinity, keeping the order otherwise."""
    padding = (~valid.gather(1, order)).to(torch.uint8)
    return order.gather(1, padding.argsort(dim=1, stable=True))
