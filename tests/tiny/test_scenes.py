"""Scenes are reproducible from a seed, owned exactly, and split without overlap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from simignore.tiny.model import LARGE, TINY
from simignore.tiny.scenes import COLOURS, MOST, PLATE, SIDE, SPLITS, Scene, Thing, patch_owner, render, sample_scene


def test_same_seed_gives_the_same_picture_to_the_bit() -> None:
    one, other = render(sample_scene(7)), render(sample_scene(7))
    assert sample_scene(7) == sample_scene(7) != sample_scene(8)
    assert np.array_equal(np.asarray(one[0]), np.asarray(other[0]))
    assert np.array_equal(one[1], other[1])


def test_splits_are_disjoint() -> None:
    for one, other in itertools.combinations(SPLITS.values(), 2):
        assert one.stop <= other.start or other.stop <= one.start


@pytest.mark.parametrize("seed", range(200))
def test_things_stay_inside_and_in_sight(seed: int) -> None:
    things = sample_scene(seed).things
    assert 3 <= len(things) <= MOST
    for thing in things:
        assert thing.radius < thing.x < SIDE - thing.radius and thing.radius < thing.y < SIDE - thing.radius
    for back, front in itertools.combinations(things, 2):
        apart = math.hypot(back.x - front.x, back.y - front.y)
        assert back.name != front.name and apart > 0.8 * (back.radius + front.radius)
        assert back.number is None or apart > front.radius + math.hypot(*PLATE), "no number is covered"


def test_some_things_overlap_and_scenes_are_of_every_size() -> None:
    scenes = [sample_scene(seed).things for seed in range(300)]
    assert {len(things) for things in scenes} == set(range(3, MOST + 1))
    pairs = [pair for things in scenes for pair in itertools.combinations(things, 2)]
    touching = [a for a, b in pairs if math.hypot(a.x - b.x, a.y - b.y) < a.radius + b.radius]
    assert 0.01 < len(touching) / len(pairs) < 0.3


def test_bounds_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ValueError, match="9 to 9 things"):
        sample_scene(0, fewest=9, most=9)


def test_in_front_covers_behind() -> None:
    square = Thing("square", "red", "large", "plain", None, 40.0, 40.0, 15.0, 0.0)
    ring = Thing("ring", "blue", "large", "plain", None, 56.0, 40.0, 15.0, 0.0)
    _, owner = render(Scene((square, ring), 0))
    assert owner[40, 45] == 2 and owner[40, 30] == 1
    assert owner[40, 56] == 0, "nothing stands in the hole of the ring"
    _, owner = render(Scene((ring, square), 0))
    assert owner[40, 45] == 2 and owner[40, 64] == 1


def test_a_number_is_drawn_on_its_thing() -> None:
    thing = Thing("circle", "red", "large", "plain", None, 56.0, 56.0, 15.0, 0.0)
    pictures = []
    for number in (None, *"123456789"):
        picture, owner = render(Scene((Thing(**{**vars(thing), "number": number}),), 0))
        pictures.append(np.asarray(picture).astype(int)[50:62, 52:60])
        assert owner[56, 56] == 1
    for one, other in itertools.combinations(pictures, 2):
        assert (np.abs(one - other).max(-1) > 100).sum() >= 4, "every number looks different"


def test_larger_pictures_show_the_same() -> None:
    small, large = render(sample_scene(3)), render(sample_scene(3), 3)
    assert large[0].size == (LARGE.side, LARGE.side) == (336, 336)
    shrunk = np.asarray(large[0].reduce(3)).astype(int)
    assert np.abs(shrunk - np.asarray(small[0])).mean() < 12, "the same but for noise and edges"
    assert (large[1][1::3, 1::3] == small[1]).mean() > 0.98
    assert patch_owner(large[1], LARGE.patch).shape == (LARGE.patches,) == (576,)


def test_picture_and_owner_map_have_the_promised_shapes() -> None:
    picture, owner = render(sample_scene(3))
    assert picture.size == (SIDE, SIDE) and picture.mode == "RGB"
    assert owner.shape == (SIDE, SIDE)
    assert patch_owner(owner).shape == (TINY.patches,) == (196,)


def test_pixels_of_a_plain_thing_have_its_colour() -> None:
    checked = 0
    for seed in range(40):
        scene = sample_scene(seed)
        picture, owner = render(scene)
        for number, thing in enumerate(scene.things, start=1):
            if thing.pattern == "plain" and thing.number is None:
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
    size = TINY.patch
    for patch in range(TINY.patches):
        row, column = divmod(patch, TINY.grid)
        tile = owner[row * size : (row + 1) * size, column * size : (column + 1) * size]
        counts = [(tile == number).sum() / size**2 for number in range(1, len(scene.things) + 1)]
        assert owned[patch] == (1 + int(np.argmax(counts)) if max(counts) >= 0.12 else 0)
    assert set(owned) == set(range(len(scene.things) + 1)), "every thing, and the background, owns a patch"


def test_an_empty_map_is_all_background() -> None:
    assert not patch_owner(np.zeros((SIDE, SIDE), np.uint8)).any()
