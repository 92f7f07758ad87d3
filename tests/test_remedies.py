"""Errors that tell what is wrong with a model, its inputs or a method also tell what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import models
from simignore import Method, UnsupportedModelError
from simignore.geometry import GeometryError, Run, merged, pooled_frames, square, tiles_with_markers
from simignore.parts import parts
from simignore.patching import PatchingError, stitched
from simignore.types import Grid, Selection

SIDE = SimpleNamespace(vision_config=SimpleNamespace(image_size=32, patch_size=8, spatial_merge_size=2))


@pytest.mark.parametrize(
    ("lay", "given", "runs", "says"),
    [
        (square, {}, [Run(17, 0, -1)], "17 image tokens are no multiple of the 16.*none of their tokens cut off"),
        (merged, {}, [Run(4, 0, -1)], r"'image_grid_thw'.* was not passed; pass all .* model\(\*\*inputs\)"),
        (
            pooled_frames,
            {"pixel_values_videos": torch.zeros(1, 3, 1)},
            [Run(7, 0, -1)],
            "3 frames of 4 x 4 patches do not make 7 video tokens. Pass the processor's output",
        ),
        (
            tiles_with_markers,
            {},
            [Run(5, 0, 3)],
            r"tiles of \[5\] tokens are no squares.*Pass the processor's output",
        ),
    ],
)
def test_images_that_do_not_fit_their_tokens(lay, given, runs, says):
    with pytest.raises(GeometryError, match=says):
        lay(SIDE, given, runs)


def test_a_picture_that_is_no_square():
    with pytest.raises(PatchingError, match=r"a picture of 6 patches.*Let the processor bring .* or use a method"):
        stitched([torch.zeros(6, 2)], Grid(2, 3, 0))


def test_a_config_without_an_image_token():
    model = models.fresh()
    model.config.image_token_id = None
    with pytest.raises(UnsupportedModelError, match=r"no image token id.*Set model.config.image_token_id to the id"):
        parts(model)


@dataclass(frozen=True)
class Wrong(Method):
    """Returns this index for every sample."""

    index: tuple[int, ...] = ()

    def choose(self, view):
        index = torch.tensor([self.index] * len(view.real), dtype=torch.long)
        return Selection(index, torch.full(view.real.shape, -1))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ((3, 1), r"an index that is not rising for sample 0, which has 16 image tokens: \[3, 1\]"),
        ((1, 16), r"an index that is out of range for sample 0.*: \[1, 16\]"),
        ((-1,), r"nothing for sample 0.*: \[\]"),
        ((*range(13), 5), r"not rising.*: \[0, 1, .*11, \.\.\.\]"),
    ],
)
def test_a_method_that_breaks_the_contract(index, says):
    model, says = models.model(), says + r"\. An index holds rising numbers.*simignore\.select"
    with torch.no_grad(), Wrong(keep=1, index=index)(model), pytest.raises(ValueError, match=says):
        model(**models.batch(models.prompt()))


def test_a_selection_of_another_shape():
    @dataclass(frozen=True)
    class Flat(Method):
        def choose(self, view):
            return Selection(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long))

    model, says = models.model(), r"source \(1, 3\).*Let `choose` return one of simignore\.select"
    with torch.no_grad(), Flat(keep=1)(model), pytest.raises(ValueError, match=says):
        model(**models.batch(models.prompt()))
