"""Scores -> Selection: pure functions, no model in sight.

Every function takes scores [B, N] (higher = keep) with ``valid`` [B, N] marking real tokens, and treats each sample by
itself. Ties go to the token that comes first in reading order. Scores that are not numbers are refused. Scores are fetched to
the host once, and selections are made and stay there: what is booked is small, and the device is waited for once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from simignore.budget import Budget, budget
from simignore.types import PAD, Blend, Selection


def top_k(score: Tensor, valid: Tensor, keep: int | float | Budget, totals: Sequence[int] = ()) -> Selection:
    """The tokens of each sample with the highest scores: as many as ``keep`` says.

    totals: image tokens of each sample before any cut, for budgets that count in those; () = those that are there.
    """
    score, valid = _checked(score, valid)
    tokens = [int(n) for n in valid.sum(1)]
    if not isinstance(keep, Budget):
        return _best(score, valid, [budget(keep, n) for n in tokens])
    found = [keep.count(own[real], total) for own, real, total in zip(score, valid, totals or tokens, strict=True)]
    chosen = _best(score, valid, [count for count, _ in found])
    return replace(chosen, notes=tuple(note for _, note in found) if any(note for _, note in found) else ())


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
    flat = pairs.masked_fill(~real, -math.inf).flatten(1)  # [B, N*M]
    order = flat.argsort(dim=1, descending=True, stable=True)  # [B, N*M] pairs by falling similarity
    rank = torch.arange(n * m, device=pairs.device)
    met = (rank >= skip) & ((rank - skip) % stride == 0)
    never = n * m
    # the rank at which the walk meets each token; tokens that it never meets come after all others, best pair first
    token = order // m  # [B, N*M]
    first = torch.full((b, n), 2 * never, device=pairs.device)
    first.scatter_reduce_(1, token, torch.where(met, rank, never + rank).expand(b, -1), "amin")
    best = pairs.masked_fill(~real, -math.inf).amax(2).cpu()  # [B, N] for the picture
    check_numbers(best, valid.cpu())
    chosen = top_k((-first).double(), valid, keep)
    return replace(chosen, score=best.masked_fill(~valid.cpu(), math.nan))


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
    blend = None if inner.blend is None else renumber(inner.blend, among)
    return Selection(index, full, score, inner.notes, blend)


def renumber(blend: Blend, among: Tensor) -> Blend:
    """A blend among some tokens, told in the numbers [B, N'] that they have elsewhere."""
    target, origin = blend.target.cpu(), blend.origin.cpu()
    there = target != PAD
    target, origin = (among.gather(1, x.clamp(min=0)).masked_fill(~there, PAD) for x in (target, origin))
    return Blend(target, origin, blend.weight)


def compose(first: Selection, second: Selection) -> Selection:
    """One selection for two cuts in a row, both numbered alike. The score is that of the first, which saw more tokens."""
    step = first.source
    source = torch.where(step != PAD, second.source.gather(1, step.clamp(min=0)), PAD)
    return Selection(second.index, source, first.score if first.score is not None else second.score)


def by_order(order: Tensor, valid: Tensor, counts: Sequence[int], score: Tensor | None = None) -> Selection:
    """The first ``counts[b]`` tokens that ``order`` [B, k] names for each sample; what follows them in a row is not read."""
    order, valid = order.cpu(), valid.cpu()
    wanted = torch.arange(order.shape[1]) < torch.tensor(counts)[:, None]  # [B, k]
    kept = torch.zeros(valid.shape[0], valid.shape[1] + 1, dtype=torch.bool)
    kept = kept.scatter(1, torch.where(wanted, order, valid.shape[1]), True)[:, :-1]
    return from_kept(kept & valid, None if score is None else score.cpu().masked_fill(~valid, math.nan))


def _checked(score: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the host; raises for scores of another shape, and for those of real tokens that are not numbers."""
    if score.shape != valid.shape:
        raise ValueError(
            f"scores have shape {tuple(score.shape)}, the image tokens {tuple(valid.shape)}; one score per token"
        )
    score, valid = score.detach().cpu(), valid.cpu()
    score = score if score.is_floating_point() else score.double()
    check_numbers(score, valid)
    return score, valid


def check_numbers(score: Tensor, valid: Tensor) -> None:
    """Raise ValueError, naming the first, if a score of a real token is not a number; both on the host."""
    broken = score.isnan() & valid  # [B, N]
    if bool(broken.any()):
        sample, token = broken.nonzero()[0].tolist()
        raise ValueError(
            f"the score of image token {token} in sample {sample} is not a number (NaN): the features hold NaN, or a method "
            "divided by zero. Look for an overflow on the way, such as float16 in a model that was trained in bfloat16, or "
            "for zeros that the method divides by"
        )


def ranked(score: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """[B, N] tokens by falling score, padding last, and the scores, both on the host."""
    score, valid = _checked(score, valid)
    order = score.masked_fill(~valid, -math.inf).argsort(dim=1, descending=True, stable=True)
    return _real_first(order, valid), score


def _best(score: Tensor, valid: Tensor, counts: Sequence[int]) -> Selection:
    """The ``counts[b]`` best tokens of each sample, in reading order."""
    order, score = ranked(score, valid)
    rank = torch.arange(score.shape[1])
    wanted = rank < torch.tensor(counts)[:, None]  # [B, N] by rank
    kept = torch.zeros_like(valid).scatter(1, order, wanted) & valid
    return from_kept(kept, score.masked_fill(~valid, math.nan))


def _real_first(order: Tensor, valid: Tensor) -> Tensor:
    """Move padding behind real tokens whose score is minus infinity, keeping the order otherwise."""
    padding = (~valid.gather(1, order)).to(torch.uint8)
    return order.gather(1, padding.argsort(dim=1, stable=True))
