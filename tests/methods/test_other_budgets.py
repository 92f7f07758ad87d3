"""The same method at another budget, and heads that do nothing but score under another method's rule."""

from __future__ import annotations

import pytest
import torch

import models
from benchmarks.heads import random_head
from simignore import AtLeast, Diverse, FastV, LearnedSimignore, Merged, OfAll, Product, Schedule
from simignore.evaluate.compare import entries
from simignore.head import Head

OWN = random_head(models.WIDTH)


@pytest.fixture(scope="module")
def judging(tmp_path_factory) -> str:
    """The same head, with a threshold that counts as learnt."""
    head = Head.from_pretrained(OWN)
    made = Head(head.width, head.rank, judges=True)
    made.load_state_dict(head.state_dict())
    made.save_pretrained(folder := tmp_path_factory.mktemp("judging"))
    return str(folder)


@pytest.mark.parametrize("wrap", [lambda inner: inner, Diverse, Merged, lambda inner: Product(inner, inner)])
def test_a_schedule_is_no_single_budget(wrap):
    """It became one cut before layer 2, whatever the schedule's layers."""
    method = wrap(FastV(keep=Schedule({1: 8, 3: 4})))
    with pytest.raises(ValueError, match=r"a budget for each of its layers, and keep=6 would be one.*fixed=True"):
        method.with_keep(6)
    with pytest.raises(ValueError, match="a budget for each of its layers"):
        entries([method], [6])


def picked(method):
    with torch.no_grad(), method(models.model(), query=torch.tensor([5, 6])) as trace:
        models.model()(**models.batch(models.prompt(), models.prompt(seed=1)))
    return trace.selections[0].index


def test_a_head_that_only_scores_may_be_laid_under_another_rule(judging):
    """Without a threshold, or where a rule says how many stay, nothing is filled up: what stays are the highest scores."""
    for head, keep in (
        (OWN, 5),
        (OWN, OfAll(0.5)),
        (OWN, AtLeast(0, cap=9)),
        (judging, AtLeast(0)),
        (judging, AtLeast(-9)),
    ):
        alone = LearnedSimignore(keep=keep, head=head, sharpness=None)
        assert torch.equal(
            picked(alone), picked(LearnedSimignore(keep=keep, head=head, sharpness=None, fill="highest"))
        )
        assert alone.plain and Diverse(alone).scorer == alone


def test_a_head_that_fills_up_may_not(judging):
    for keep in (5, OfAll(0.5)):
        with pytest.raises(
            TypeError, match=r"switch that off, as LearnedSimignore\(sharpness=None, fill=.highest.\) does"
        ):
            Diverse(LearnedSimignore(keep=keep, head=judging, sharpness=None))
