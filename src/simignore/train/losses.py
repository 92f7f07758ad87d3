"""What a head learns from: pure functions of scores, no model in sight.

Scores are [B, N], higher = keep, with ``valid`` [B, N] marking real image tokens. Every loss is a mean over the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def flow_distillation(score: Tensor, flow: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """KL divergence of softmax(score / temperature), the student, from the decoder's flow, the teacher, in nats.

    flow: [B, N], not negative, divided by its sum per sample. Samples whose flow is zero or not a number say nothing and are
    left out. As flow any map may be given: 1 for the tokens of regions that the question needs makes the student spread evenly
    over those. Source: distillation as in arXiv 1503.02531, of the flow that arXiv 2412.09817 measures.
    """
    flow = flow.float().masked_fill(~valid, 0)
    total = flow.sum(1, keepdim=True)  # [B, 1]
    telling = (total > 0) & total.isfinite()
    teacher = torch.where(telling, flow / total.clamp(min=1e-30), 0)
    student = (score.float() / temperature).masked_fill(~valid, -math.inf).log_softmax(1).masked_fill(~valid, 0)
    each = (torch.special.xlogy(teacher, teacher) - teacher * student).sum(1)  # [B]
    found: Tensor = each.sum() / telling.sum().clamp(min=1)
    return found


def separation(score: Tensor, needed: Tensor, valid: Tensor, slope: float, lost: float = 1.0) -> Tensor:
    """How badly 0 parts the scores [B, N] of needed tokens from those of the others: binary cross-entropy of
    sigmoid(score / slope), in nats, in which needed tokens weigh ``lost`` times as much.

    needed: [B, N]. Samples of which nothing or everything is needed say nothing and are left out.
    """
    needed = needed.bool() & valid
    telling = needed.any(1) & (valid & ~needed).any(1)  # [B]
    logit = (score.float() / slope).masked_fill(~(valid & telling[:, None]), 0)  # no slope comes from what is not read
    each = binary_cross_entropy_with_logits(
        logit, needed.float(), reduction="none", pos_weight=torch.tensor(lost, device=score.device)
    )
    each = each.masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1)
    found: Tensor = each.masked_fill(~telling, 0).sum() / telling.sum().clamp(min=1)
    return found


def alignment(pairs: Tensor, shows: Tensor, valid: Tensor, words: Tensor, temperature: float) -> Tensor:
    """How unsure patches are which words say what they show, and words which patches show it: InfoNCE, mean of both, in nats.

    pairs: [B, N, W] similarity of each image token with each word. shows: [B, N, W] True where the token shows what the word
    says. valid: [B, N] real image tokens. words: [B, W] real words. Tokens that show none of the words, or all, and words
    that no token shows, or every one, are left out. A word is told from the background, too, which shows none. Source: arXiv
    1807.03748, in both directions as in arXiv 2103.00020.
    """
    real = valid[:, :, None] & words[:, None]  # [B, N, W]
    pairs = (pairs.float() / temperature).masked_fill(~real, -math.inf)
    shows = shows & real
    by_token = _contrast(pairs, shows, real)
    by_word = _contrast(*(x.transpose(1, 2) for x in (pairs, shows, real)))
    return (by_token + by_word) / 2


def _contrast(pairs: Tensor, shows: Tensor, real: Tensor) -> Tensor:
    """InfoNCE over the last dimension, mean of the rows in which some real ones are right and some are not; 0 of none."""
    told = shows.any(-1) & (real & ~shows).any(-1)
    if not bool(told.any()):
        return pairs.masked_fill(~real, 0).sum() * 0.0
    right = pairs[told].masked_fill(~shows[told], -math.inf).logsumexp(-1)
    return (pairs[told].logsumexp(-1) - right).mean()


def over_budget(share: Tensor, budget: float) -> Tensor:
    """Squared difference of the batch's mean share of kept tokens and the budget, relative to the budget.

    share: [B] of each sample. It is the mean that is held, so that one question may keep more than another.
    """
    return ((share.mean() - budget) / budget).square()


def top(
    score: Tensor, valid: Tensor, counts: Tensor, noise: float, slope: float, drawn: Tensor
) -> tuple[Tensor, Tensor]:
    """The ``counts`` [B] best tokens under noise, and gates through which the choice can be learnt.

    noise: scale of Gumbel noise on the scores, 0 for none; with it the choice is a sample without replacement of
    softmax(score / noise) (Gumbel top-k, arXiv 1903.06059). drawn: [B, N] uniform random numbers in (0, 1).
    slope: of the soft step at the threshold between the last token that stays and the first that goes.
    Returns kept [B, N] and gates [B, N], which are 1 exactly for kept tokens and 0 for others in the forward pass, and the soft
    step's in the backward pass (straight-through, arXiv 1308.3432).
    """
    if noise:
        score = score - noise * torch.log(-torch.log(drawn.clamp(1e-9, 1 - 1e-7)))
    ranked = score.detach().masked_fill(~valid, -math.inf).sort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device)
    kept = torch.zeros_like(valid).scatter(1, ranked.indices, places < counts[:, None]) & valid
    last = ranked.values.gather(1, (counts - 1).clamp(min=0)[:, None])
    first_out = ranked.values.gather(1, counts.clamp(max=score.shape[1] - 1)[:, None])
    between = torch.where(first_out.isfinite(), (last + first_out) / 2, last - slope)  # [B, 1]
    return kept, straight_through(kept, (score - between) / slope)


def above(score: Tensor, valid: Tensor, noise: float, slope: float, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens whose score is at least 0, the best one at any rate, and gates as in :func:`top`.

    noise: scale of logistic noise on the scores (the binary concrete distribution, arXiv 1611.00712).
    Returns kept, gates, and the expected share [B] of tokens that stay.
    """
    expected = torch.sigmoid(score / slope).masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1)  # [B]
    if noise:
        drawn = drawn.clamp(1e-7, 1 - 1e-7)
        score = score + noise * (drawn.log() - (1 - drawn).log())
    best = score.detach().masked_fill(~valid, -math.inf).argmax(1, keepdim=True)
    kept = ((score.detach() >= 0) | torch.zeros_like(valid).scatter(1, best, True)) & valid
    return kept, straight_through(kept, score / slope), expected


def straight_through(kept: Tensor, logit: Tensor) -> Tensor:
    """[B, N] 1 for kept tokens and 0 for others; to the gradient it is sigmoid(logit)."""
    soft = logsigmoid(logit).exp()
    return kept.to(soft.dtype) + (soft - soft.detach())  # in this order no rounding is left


def gated(visual: Tensor, gates: Tensor, valid: Tensor) -> Tensor:
    """[B, N, D] image tokens, open gates as they are, closed ones replaced by the mean of the sample's image tokens.

    So the gradient of a gate says what the loss would gain if the token told no more than any other does. (To scale a token by
    its gate would say nothing: the decoder's first normalisation undoes it.)
    """
    real = valid[..., None]
    mean = visual.masked_fill(~real, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    gates = gates[..., None].to(visual.dtype)
    return torch.where(real, visual * gates + mean * (1 - gates), visual)
