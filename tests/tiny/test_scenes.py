"""Scenes are reproducible from a seed, owned exactly, and split without overlap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from simignore.tiny.scenes import (
    COLOURS,
    GRID,
    PATCH,
    PATCHES,
    SIDE,
    SPLITS,
    patch_owner,
    render,
    sample_scene,
)


def test_same_seed_gives_the_same_picture_to_the_bit() -> None:
    one, other = render(sample_scene(7)), render(sample_scene(7))
    assert sample_scene(7) == sample_scene(7) != sample_scene(8)
    assert np.array_equal(np.asarray(one[0]), np.asarray(other[0]))
    assert np.array_equal(one[1], other[1])


def test_splits_are_disjoint() -> None:
    for one, other in itertools.combinations(SPLITS.values(), 2):
        assert one.stop <= other.start or other.stop <= one.start


@pytest.mark.parametrize("seed", range(200))
def test_things_keep_apart_and_inside(seed: int) -> None:
    things = sample_scene(seed).things
    assert 3 <= len(things) <= 5
    for thing in things:
        assert thing.radius < thing.x < SIDE - thing.radius and thing.radius < thing.y < SIDE - thing.radius
    for one, other in itertools.combinations(things, 2):
        assert math.hypot(one.x - other.x, one.y - other.y) >= one.radius + other.radius + 2
        assert one.name != other.name


def test_bounds_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ValueError, match="9 to 9 things"):
        sample_scene(0, fewest=9, most=9)


def test_picture_and_owner_map_have_the_promised_shapes() -> None:
    picture, owner = render(sample_scene(3))
    assert picture.size == (SIDE, SIDE) and picture.mode == "RGB"
    assert owner.shape == (SIDE, SIDE)
    assert patch_owner(owner).shape == (PATCHES,)


def test_pixels_of_a_plain_thing_have_its_colour() -> None:
    checked = 0
    for seed in range(40):
        scene = sample_scene(seed)
        picture, owner = render(scene)
        for number, thing in enumerate(scene.things, start=1):
            if thing.pattern == "plain":
                colour = np.median(np.asarray(picture)[owner == number], axis=0)
                nearest = min(COLOURS, key=lambda name: float(np.abs(colour - COLOURS[name]).sum()))
                assert nearest == thing.colour
                checked += 1
    assert checked > 30


@pytest.mark.parametrize("seed", range(20))
def test_patch_owner_agrees_with_counting_pixels(seed: int) -> None:
    scene = sample_scene(seed)
    _, owner = render(scene)
    owned = patch_owner(owner)
    for patch in range(PATCHES):
        row, column = divmod(patch, GRID)
        tile = owner[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        counts = [(tile == number).sum() / PATCH**2 for number in range(1, len(scene.things) + 1)]
        assert owned[patch] == (1 + int(np.argmax(counts)) if max(counts) >= 0.12 else 0)
    assert set(owned) == set(range(len(scene.things) + 1)), "every thing, and the background, owns a patch"


def test_an_empty_map_is_all_background() -> None:
    assert not patch_owner(np.zeros((SIDE, SIDE), np.uint8)).any()
