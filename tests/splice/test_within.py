"""Choosing within each image or grid: by the same rule as within the sample, image by image."""

from __future__ import annotations

import pytest
import torch

import models
from simignore import AtLeast, Random, Simignore

QUERY = torch.tensor([10, 11, 12])


def chosen(method, images: int):
    model, inputs = models.model(), models.batch(models.prompt(images=images))
    with torch.no_grad(), method(model, query=QUERY) as trace:
        model(**inputs)
    return trace.selections[0]


def test_one_image_is_the_sample():
    for method in (Random, Simignore):
        alone, within = (chosen(method(keep=5, within=what), 1) for what in ("sample", "image"))
        assert torch.equal(alone.index, within.index) and torch.equal(alone.source, within.source)


def test_each_image_draws_by_itself():
    index = chosen(Random(keep=5, within="image"), 3).index[0].view(3, 5) - torch.arange(3)[:, None] * models.PATCHES
    assert ((index >= 0) & (index < models.PATCHES)).all()
    assert len({tuple(row) for row in index.tolist()}) == 3


@pytest.mark.parametrize("within", ["image", "grid"])
def test_the_best_of_each_image_stay(within):
    """The scores are those of the whole sample; the highest of each sixteen stay."""
    whole, parted = chosen(Simignore(keep=9), 3), chosen(Simignore(keep=3, within=within), 3)
    torch.testing.assert_close(parted.score, whole.score)
    best = []
    for image in range(3):
        score = whole.score[0, image * models.PATCHES : (image + 1) * models.PATCHES].tolist()
        ranked = sorted(range(models.PATCHES), key=lambda i: -score[i])
        best += [image * models.PATCHES + i for i in sorted(ranked[:3])]
    assert parted.index[0].tolist() == best


def test_notes_name_the_image():
    model = models.model()
    method = Simignore(keep=AtLeast(2.0), within="image")
    with torch.no_grad(), method(model, query=QUERY) as trace:
        model(**models.batch(models.prompt(images=2)))
    (note,) = trace.notes
    assert "sample 0: image 0: no image token reached" in note and "; image 1: no image token reached" in note
