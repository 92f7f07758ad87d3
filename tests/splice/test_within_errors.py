"""Errors of methods that choose within images name samples of the batch, not rows of the parted view."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import models
from simignore import Scorer, Simignore


@dataclass(frozen=True)
class Broken(Scorer):
    """The last row's first score is no number."""

    def score(self, view):
        score = torch.zeros(view.valid.shape)
        score[-1, 0] = torch.nan
        return score


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (
            Broken(keep=4, within="image"),
            r"token 0 in sample 3 is not a number.*takes each image for a sample.*0, 0, 1, 1\)",
        ),
        (
            Simignore(keep=17, within="grid"),
            r"there are only 16 to choose among.*takes each grid for a sample.*0, 0, 1, 1\)",
        ),
        (Broken(keep=4), r"token 0 in sample 1 is not a number.*divides by$"),
    ],
)
def test_the_samples_of_rows_are_told(method, says):
    inputs = models.batch(models.prompt(images=2), models.prompt(images=2, seed=1))
    with torch.no_grad(), method(models.model(), query=torch.tensor([5])), pytest.raises(ValueError, match=says):
        models.model()(**inputs)


def test_of_many_rows_the_first_are_told():
    inputs = models.batch(models.prompt(images=13))
    with (
        torch.no_grad(),
        Broken(keep=4, within="image")(models.model()),
        pytest.raises(ValueError, match=r"(0, ){12}\.\.\.\)"),
    ):
        models.model()(**inputs)
