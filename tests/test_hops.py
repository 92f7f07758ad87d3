"""Where image tokens lie, told by hand, and the sums over all pairs of them in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from grids import lying
from simignore import hops
from simignore.hops import nearby, same_thing, spots
from simignore.types import PAD, Grid

WHOLE = (0.0, 0.0, 1.0, 1.0)


def places(patches, b=0):
    """[(picture, x, y)] of a sample's tokens, None for what is not a number."""
    return [tuple(None if math.isnan(x) else x for x in token) for token in spots(patches)[b].tolist()]


def near(*wanted):
    return [tuple(pytest.approx(x, abs=1e-6) for x in token) for token in wanted]


def test_a_square_grid_has_its_middles_in_shares_of_the_side():
    assert places(lying([[Grid(2, 2, 0)]])) == near((0, 0.25, 0.25), (0, 0.75, 0.25), (0, 0.25, 0.75), (0, 0.75, 0.75))


def test_patches_of_an_oblong_grid_are_squares_of_its_longer_side():
    wide = places(lying([[Grid(1, 4, 0, box=WHOLE)]]))
    assert wide == near((0, 0.125, 0.125), (0, 0.375, 0.125), (0, 0.625, 0.125), (0, 0.875, 0.125))
    tall = places(lying([[Grid(4, 1, 0)]]))
    assert tall == [(n, y, x) for n, x, y in wide]


def test_tiles_whose_boxes_are_known_lie_on_one_picture_twice_as_wide_as_high():
    tiles = [Grid(2, 2, 0, "tile", box) for box in ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))]
    assert sorted(places(lying([tiles]))) == sorted(places(lying([[Grid(2, 4, 0)]])))


def test_an_overview_that_was_squeezed_lies_where_the_tiles_show_the_same():
    """The middle of the overview's right lower quarter is the corner between four patches of the oblong picture."""
    overview, tiles = Grid(2, 2, 0, "overview", WHOLE), Grid(4, 8, 0, box=WHOLE)
    found = places(lying([[overview, tiles]]))
    assert found[:4] == near((0, 0.25, 0.125), (0, 0.75, 0.125), (0, 0.25, 0.375), (0, 0.75, 0.375))
    assert found[4:] == places(lying([[tiles]]))
    for order in ([overview, tiles], [tiles, overview]):
        last = places(lying([order]))
        assert sorted(last) == sorted(found)


def test_padding_around_a_picture_lies_outside_of_it():
    """A picture half as wide as high in the middle of a square: two of four columns are padding."""
    found = places(lying([[Grid(4, 4, 0, box=(-0.5, 0.0, 1.5, 1.0))]]))
    assert found[:4] == near((0, -0.125, 0.125), (0, 0.125, 0.125), (0, 0.375, 0.125), (0, 0.625, 0.125))
    assert found[-1] == near((0, 0.625, 0.875))[0]


def test_without_a_box_each_tile_is_a_picture_and_each_image_and_each_frame():
    def pictures(*grids):
        return [int(token[0]) for token in places(lying([grids]))]

    assert pictures(Grid(1, 2, 0, "tile"), Grid(1, 2, 0, "tile"), Grid(1, 1, 0, "overview")) == [0, 0, 1, 1, 2]
    assert pictures(Grid(1, 2, 0, box=WHOLE), Grid(2, 1, 1, box=WHOLE)) == [0, 0, 1, 1]
    frames = [Grid(1, 2, 0, "frame", WHOLE, time) for time in range(3)]
    assert pictures(*frames, Grid(1, 1, 1, box=WHOLE)) == [0, 0, 1, 1, 2, 2, 3]
    assert pictures(Grid(1, 1, 0, "overview", WHOLE), Grid(1, 1, 0, "tile"), Grid(1, 1, 0, box=WHOLE)) == [0, 1, 0]


def test_padding_is_no_number_and_a_learned_query_has_a_picture_but_no_place():
    patches = lying([[Grid(1, 3, 0, "tokens"), Grid(1, 1, 1)], [Grid(1, 1, 0)], [Grid(1, 4, 0, "tokens")]])
    nowhere = (None, None, None)
    assert places(patches) == [(0, None, None)] * 3 + near((1, 0.5, 0.5))
    assert places(patches, 1) == [*near((0, 0.5, 0.5)), nowhere, nowhere, nowhere]
    assert places(patches, 2) == [(0, None, None)] * 4


def test_each_sample_has_its_own_grids():
    one, other = [Grid(2, 3, 0)], [Grid(3, 1, 0, box=WHOLE), Grid(1, 3, 1)]
    both = lying([one, other])
    for b, own in enumerate((one, other)):
        assert places(both, b) == places(lying([own]))


def test_what_a_cut_left_lies_where_it_lay():
    patches = lying([[Grid(2, 3, 0), Grid(2, 2, 1, box=WHOLE)], [Grid(1, 3, 0)]])
    index = torch.tensor([[1, 5, 6, 9], [2, PAD, PAD, PAD]])
    whole, left = spots(patches), spots(patches.take(index))
    for b in range(2):
        for k, n in enumerate(index[b].tolist()):
            assert bool(left[b, k].isnan().all()) if n == PAD else torch.equal(left[b, k], whole[b, n])


def drawn(n=23, b=2, d=5, seed=0):
    """Mass, features of length 1 and places on three pictures, in float64."""
    generator = torch.Generator().manual_seed(seed)
    mass, place = torch.rand(b, n, generator=generator).double(), torch.rand(b, n, 3, generator=generator).double()
    place[..., 0] = (place[..., 0] * 3).floor()
    seen = normalize(torch.randn(b, n, d, generator=generator, dtype=torch.float64), dim=-1)
    return mass, seen, place


def distance(a, b):
    """Between two tokens (picture, x, y), or None if they lie on two pictures."""
    return math.hypot(a[1] - b[1], a[2] - b[2]) if a[0] == b[0] else None


def nearby_loop(mass, place, reach):
    found = []
    for own in place:
        gaps = [distance(own, other) for other in place]
        found.append(sum(m * math.exp(-gap / reach) for m, gap in zip(mass, gaps, strict=True) if gap is not None))
    return found


def same_loop(mass, seen, place, size, likeness):
    found = []
    for v, own in zip(seen, place, strict=True):
        total = 0.0
        for m, u, other in zip(mass, seen, place, strict=True):
            gap = distance(own, other)
            if gap is not None:
                alike = sum(x * y for x, y in zip(u, v, strict=True))
                total += m * math.exp(likeness * (alike - 1)) * math.exp(-((gap / size) ** 2))
        found.append(total)
    return found


def number(x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize("reach", [0.02, 0.05, 0.3])
def test_nearby_is_the_sum_over_all_tokens_of_the_same_picture(reach):
    mass, _, place = drawn()
    found = nearby(place, number(reach))(mass)
    for b in range(2):
        assert found[b].tolist() == pytest.approx(nearby_loop(mass[b].tolist(), place[b].tolist(), reach), rel=1e-9)


@pytest.mark.parametrize("size", [0.05, 0.14, 0.5])
@pytest.mark.parametrize("likeness", [0.5, 4.0])
def test_same_thing_is_the_sum_over_what_is_close_and_looks_alike(size, likeness):
    mass, seen, place = drawn(seed=1)
    found = same_thing(seen, place, number(size), number(likeness))(mass)
    for b in range(2):
        wanted = same_loop(*(x[b].tolist() for x in (mass, seen, place)), size, likeness)
        assert found[b].tolist() == pytest.approx(wanted, rel=1e-9)


def test_another_picture_is_out_of_reach_also_at_the_same_spot():
    mass, seen = number([[1.0, 0.0, 0.0]]), torch.ones(1, 3, 1).double()
    place = number([[[0, 0.5, 0.5], [0, 0.5, 0.5], [1, 0.5, 0.5]]])
    for found in (nearby(place, number(0.05))(mass), same_thing(seen, place, number(0.14), number(4.0))(mass)):
        assert found[0, :2].tolist() == [1.0, 1.0] and float(found[0, 2]) < 1e-80


@pytest.mark.parametrize("rows", [1, 4, 5, 23, 512])
def test_rows_may_be_computed_in_any_chunks(rows, monkeypatch):
    mass, seen, place = drawn()
    told = nearby(place, number(0.1))(mass), same_thing(seen, place, number(0.2), number(3.0))(mass)
    monkeypatch.setattr(hops, "CHUNK", rows)
    monkeypatch.setattr(hops, "HELD", 0)
    again = nearby(place, number(0.1))(mass), same_thing(seen, place, number(0.2), number(3.0))(mass)
    for one, other in zip(told, again, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=0)


def test_more_tokens_than_a_chunk_are_those_alone(monkeypatch):
    """One heavy token more than a chunk away in the row, close by in the picture."""
    monkeypatch.setattr(hops, "HELD", 0)
    n = hops.CHUNK + 5
    mass, seen, place = torch.zeros(1, n).double(), torch.ones(1, n, 1).double(), torch.zeros(1, n, 3).double()
    place[0, :, 1] = torch.arange(n) * 10.0
    place[0, -1, 1] = 0.1
    mass[0, -1] = 2.0
    found = nearby(place, number(0.1))(mass)
    assert float(found[0, 0]) == pytest.approx(2 * math.exp(-1)) and float(found[0, -1]) == 2.0
    assert float(same_thing(seen, place, number(0.1), number(4.0))(mass)[0, 0]) == pytest.approx(2 * math.exp(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_those_of_the_loop(dtype):
    mass, seen, place = drawn(n=9)
    place[0, 1] = place[0, 0]  # two tokens at one spot: the slope of a distance of 0
    given = [x.to(dtype).requires_grad_() for x in (mass, seen, number(0.07), number(0.2), number(4.0))]
    mass, seen, reach, size, likeness = given
    total = nearby(place.to(dtype), reach)(mass).log().sum()
    total = total + same_thing(seen, place.to(dtype), size, likeness)(mass).log().sum()
    slopes = torch.autograd.grad(total, given)
    assert all(bool(slope.isfinite().all()) and bool(slope.any()) for slope in slopes)

    def loop(reach, size, likeness):
        rows = [(mass[b].tolist(), seen[b].tolist(), place[b].tolist()) for b in range(2)]
        around = [x for m, _, p in rows for x in nearby_loop(m, p, reach)]
        alike = [x for m, s, p in rows for x in same_loop(m, s, p, size, likeness)]
        return sum(math.log(x) for x in around + alike)

    at = [x.item() for x in (reach, size, likeness)]
    for n, slope in enumerate(slopes[2:]):
        up, down = (loop(*(x + (sign * 1e-5 if k == n else 0) for k, x in enumerate(at))) for sign in (1, -1))
        assert float(slope) == pytest.approx((up - down) / 2e-5, rel=1e-3)


def test_no_gradient_comes_from_another_picture():
    mass = torch.tensor([[1.0, 0.0]], requires_grad=True)
    reach = torch.tensor(1e-3, requires_grad=True)
    found = nearby(torch.tensor([[[0.0, 0.5, 0.5], [1.0, 0.5, 0.5]]]), reach)(mass)
    slope, sharper = torch.autograd.grad(found[0, 1], [mass, reach])
    assert slope.tolist() == [[0.0, 1.0]] and float(sharper) == 0
