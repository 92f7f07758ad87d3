"""The loss that teaches a head its threshold, against its formula in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from train.test_train_losses import mask, random

from simignore.train import losses


def entropy(score: list[float], needed: list[bool], slope: float, lost: float) -> float:
    """The mean over one sample's real tokens of -log of the probability that its score gives to what it is."""
    told = 0.0
    for one, wanted in zip(score, needed, strict=True):
        p = 1 / (1 + math.exp(-one / slope))
        told -= lost * math.log(p) if wanted else math.log(1 - p)
    return told / len(score)


@pytest.mark.parametrize("slope", [0.1, 0.5])
@pytest.mark.parametrize("lost", [1.0, 3.0, 0.25])
def test_separation_is_the_cross_entropy_of_each_sample_that_needs_some_but_not_all(slope, lost):
    counts, valid, score = (7, 4, 5, 2, 6), mask(7, 4, 5, 2, 6), random(5, 7)
    needed = random(5, 7) > 0
    needed[0, :2], needed[2] = torch.tensor([True, False]), False  # nothing
    needed[1, :4], needed[1, 4:] = True, False  # everything
    needed[3, :2], needed[4, :2] = torch.tensor([False, True]), torch.tensor([True, False])
    needed[2, 5:] = True  # of padding nothing is needed
    told = [entropy(score[b, :n].tolist(), needed[b, :n].tolist(), slope, lost) for b, n in enumerate(counts)]
    found = losses.separation(score, needed, valid, slope, lost)
    assert float(found) == pytest.approx((told[0] + told[3] + told[4]) / 3, rel=1e-5)
    assert float(losses.separation(score, needed, valid, slope)) == float(
        losses.separation(score, needed.double(), valid, slope, 1.0)
    )


def test_separation_is_least_where_the_threshold_parts_them_and_pulls_both_ways():
    needed, valid = torch.tensor([[1, 1, 0, 0, 1]]), mask(4, width=5)
    score = torch.tensor([[0.5, 0.2, -0.3, -0.6, 9.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.separation(score, needed, valid, 0.1), score)
    assert (slope.sign()[0]).tolist() == [-1, -1, 1, 1, 0]
    shifted = [float(losses.separation(score.detach() + move, needed, valid, 0.1)) for move in (-0.5, 0.05, 0.5)]
    assert shifted[1] < min(shifted[0], shifted[2])


@pytest.mark.parametrize("filler", [math.nan, 1e9, -math.inf])
def test_separation_does_not_read_padding_and_samples_that_say_nothing(filler):
    valid, score, needed = mask(7, 4, 6), random(3, 7), random(3, 7) > 0
    needed[:2, :2], needed[2] = torch.tensor([True, False]), False
    wanted = losses.separation(score[:2], needed[:2], valid[:2], 0.3, 2.0)
    other = torch.where(valid, score, filler)
    other[2] = filler
    other.requires_grad_()
    found = losses.separation(other, needed, valid, 0.3, 2.0)
    assert found.item() == pytest.approx(wanted.item())
    (slope,) = torch.autograd.grad(found, other)
    assert bool(slope[:2][valid[:2]].all()) and not bool(slope[~valid].any()) and not bool(slope[2].any())


def test_separation_of_samples_that_all_say_nothing_is_zero():
    score = random(2, 7).requires_grad_()
    found = losses.separation(score, torch.stack([mask(7)[0], mask(0)[0]]), mask(7, 3), 0.3)
    assert found.item() == 0
    assert not bool(torch.autograd.grad(found, score)[0].any())
